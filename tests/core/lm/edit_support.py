"""Random SAEs at made-up hook points, and running interventions on activations without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.intervention_rows import InterventionRow, place
from saekit_core.lm.interventions import BoundSAE, Interventions, Watch
from saekit_core.lm.splicing import BatchedInterventions
from saekit_core.lm.tokenizer import Tokenized
from saekit_core.sae import SAE, SAEConfig
from saekit_core.sae.metadata import SAEMetadata

D, D_SAE = 16, 40
ARCHITECTURES = ("standard", "gated", "jumprelu", "topk")
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")
EARLY = HookPoint("blocks.0.hook_resid_pre", "blocks.0.hook_in", 1, (D,))
HOOK = HookPoint("blocks.1.hook_resid_pre", "blocks.1.hook_in", 5, (D,))
LATE = HookPoint("blocks.2.hook_resid_pre", "blocks.2.hook_in", 9, (D,))
HEADS = HookPoint("blocks.1.attn.hook_z", "blocks.1.attn.o.hook_in", 6, (4, D // 4))


def random_sae(
    architecture: str = "standard",
    normalization: str = "none",
    *,
    seed: int = 0,
    d_in: int = D,
    dtype: str = "float32",
    **settings: object,
) -> SAE:
    """An SAE of which about half the features fire on standard normal activations."""
    generator = torch.Generator().manual_seed(seed)
    if architecture == "topk":
        settings.setdefault("k", 9)
    cfg = SAEConfig.from_dict(
        {
            "architecture": architecture,
            "d_in": d_in,
            "d_sae": D_SAE,
            "dtype": dtype,
            "normalize_activations": normalization,
            "metadata": {},
            **settings,
        }
    )
    state = {
        name: torch.randn(tensor.shape, generator=generator) * (0.3 if tensor.dim() == 1 else 1.0)
        for name, tensor in SAE.from_config(cfg).weights().items()
    }
    state["W_enc"] /= d_in**0.5
    if "threshold" in state:
        state["threshold"].abs_()
    return SAE.from_state(cfg, {k: v.to(getattr(torch, dtype)) for k, v in state.items()})


def of_head(sae: SAE, head: int) -> SAE:
    """The same SAE, said to be of one attention head."""
    fields = {**sae.cfg.to_dict(), "metadata": SAEMetadata(hook_head_index=head).to_dict()}
    return SAE.from_state(SAEConfig.from_dict(fields), sae.weights())


def bind(sae: SAE, hook: HookPoint = HOOK, hook_out: HookPoint | None = None) -> BoundSAE:
    return BoundSAE(sae, "test/sae", "0" * 12, hook, hook_out or hook, id(sae))


def prompt(n: int, *, bos: bool = True) -> Tokenized:
    """A prompt of n tokens, the first of them a BOS."""
    special = np.zeros(n, np.bool_)
    special[0] = bos
    return Tokenized(np.arange(n), np.zeros((n, 2), np.uint32), special, bos)


def activations(
    n_rows: int, n: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(n_rows, n, D, generator=generator).to(dtype)


def run_rows(
    rows: Sequence[InterventionRow],
    h: Mapping[HookPoint, Tensor],
    *,
    starts: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
) -> tuple[dict[HookPoint, Tensor], BatchedInterventions]:
    """One run over activations `[rows, P, ...]` that do not depend on one another."""
    n_rows, width = next(iter(h.values())).shape[:2]
    batch = BatchedInterventions(rows, torch.device("cpu"))
    out = dict(h)
    taps = batch.taps(starts or [0] * n_rows, counts or [width] * n_rows, width)
    for hook, tap in taps.items():
        new = tap(h[hook])
        if new is not None:
            assert new.dtype == h[hook].dtype
            assert new.shape == h[hook].shape
            out[hook] = new
    batch.finish()
    return out, batch


def apply(
    interventions: Interventions, h: Tensor, *, hook: HookPoint = HOOK, watch: Sequence[Watch] = ()
) -> Tensor:
    """`[P, ...]` activations of one prompt with its interventions applied at one hook point."""
    row = place(interventions, prompt(len(h)), watch=watch)
    return run_rows([row], {hook: h[None]})[0][hook][0]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality in which NaN equals itself and -0.0 differs from 0.0."""
    kind = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
    return torch.equal(a.view(kind[a.dtype]), b.view(kind[b.dtype]))
