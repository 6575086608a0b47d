"""Runs of tiny models with SAEs: what is asked of both sides, and our answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from tests.models import build_gpt2, build_llama
from tests.parity.exchange import fill
from torch import Tensor

from saekit_core.lm.hooked import HookedSAETransformer
from saekit_core.sae import SAE, SAEConfig

TOLERANCE: Final = 1e-4
D: Final = 32
"""Width of the models of `tests.models`."""
D_SAE: Final = 48
TOKENS: Final = [[0, 17, 300, 5, 0, 261], [0, 40, 8, 120, 33, 9]]
"""0 is the beginning-of-sequence token."""
MODELS: Final = {"gpt2": build_gpt2, "llama": build_llama}

_TRANSCODER: Final = {
    "hook_name": "blocks.1.hook_resid_mid",
    "hook_name_out": "blocks.1.hook_mlp_out",
}
SAES: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    # name: (configuration, metadata)
    "resid": ({"architecture": "jumprelu"}, {"hook_name": "blocks.1.hook_resid_pre"}),
    "mlp": (
        {"architecture": "standard", "normalize_activations": "layer_norm"},
        {"hook_name": "blocks.0.hook_mlp_out"},
    ),
    "z": (
        {"architecture": "topk", "k": 9, "reshape_activations": "hook_z"},
        {"hook_name": "blocks.1.attn.hook_z"},
    ),
    "post": (
        {"architecture": "gated", "normalize_activations": "constant_norm_rescale"},
        {"hook_name": "blocks.2.hook_resid_post"},
    ),
    "mid": ({"architecture": "abstopk", "k": 9}, {"hook_name": "blocks.1.hook_resid_mid"}),
    "temporal": (
        {"architecture": "temporal", "n_heads": 2, "bottleneck_factor": 4, "kval_topk": 6},
        {"hook_name": "blocks.1.hook_resid_pre"},
    ),
    "transcoder": (
        {"architecture": "transcoder", "d_out": D, "apply_b_dec_to_input": False},
        _TRANSCODER,
    ),
    "jumprelu_transcoder": (
        {"architecture": "jumprelu_transcoder", "d_out": D, "apply_b_dec_to_input": False},
        _TRANSCODER,
    ),
    "skip_transcoder": (
        {"architecture": "skip_transcoder", "d_out": D, "apply_b_dec_to_input": False},
        _TRANSCODER,
    ),
}


INCOMPLETE: Final = ("skip_transcoder", "temporal")
"""SAEs of which sae-lens leaves a part out in a run."""


@dataclass(frozen=True)
class Case:
    """One run of a model with SAEs."""

    model: str
    saes: tuple[str, ...] = ()
    use_error_term: bool = False
    exclude_special_tokens: tuple[int, ...] = ()
    ablate: tuple[str, int] | None = None
    """A hook point inside a splice, and the feature that a hook there sets to 0."""
    processed: bool = False
    """Whether TransformerLens folds norms and centres weights, as its `from_pretrained` does."""
    also: tuple[str, ...] = ("blocks.2.hook_mlp_out", "blocks.2.hook_resid_mid")
    """What else of the cache is compared."""

    @property
    def name(self) -> str:
        parts = [self.model, "+".join(self.saes) or "no SAE"]
        parts += ["error term"] * self.use_error_term + ["processed"] * self.processed
        parts += ["without BOS"] * bool(self.exclude_special_tokens)
        return " ".join([*parts, *(["ablated"] if self.ablate else [])])


def cases() -> list[Case]:
    """All runs that are compared."""
    found = []
    for model in MODELS:
        found += [Case(model), Case(model, processed=True)]
        several = (("mlp", "z", "resid", "post"), ("jumprelu_transcoder", "resid"))
        for saes in (*((name,) for name in SAES if name not in INCOMPLETE), *several):
            found += [Case(model, saes), Case(model, saes, use_error_term=True)]
        ablate = ("blocks.1.hook_resid_pre.hook_sae_acts_post", 7)
        found += [
            Case(model, ("resid",), exclude_special_tokens=(0,)),
            Case(model, ("resid", "mlp"), use_error_term=True, exclude_special_tokens=(0,)),
            Case(model, ("resid",), use_error_term=True, ablate=ablate),
            Case(model, ("resid",), ablate=ablate),
            Case(model, ("resid", "z"), processed=True),
        ]
    return found


def build_sae(name: str) -> SAE:
    """A random SAE; every feature of some rows of the tiny models' activations."""
    keys, metadata = SAES[name]
    base = {"d_in": D, "d_sae": D_SAE, "dtype": "float32", "metadata": metadata}
    sae = SAE.from_config(SAEConfig.from_dict({**base, **keys})).requires_grad_(False)
    fill(sae.named_parameters(), name, sae.cfg.architecture)
    return sae


def build_models(folder: Path) -> None:
    for name, build in MODELS.items():
        build(folder / name)


@cache
def load_model(folder: Path, processed: bool) -> HookedSAETransformer:
    if processed:
        return HookedSAETransformer.from_pretrained(folder, device="cpu")
    return HookedSAETransformer.from_pretrained_no_processing(folder, device="cpu")


@torch.no_grad()
def answer(case: Case, models: Path) -> dict[str, Tensor]:
    """Our logits, and what the cache of the run holds of splices."""
    model = load_model(models / case.model, case.processed)
    tokens, saes = torch.tensor(TOKENS), [build_sae(name) for name in case.saes]
    options: dict[str, Any] = {
        "saes": saes,
        "use_error_term": case.use_error_term,
        "exclude_special_tokens": list(case.exclude_special_tokens) or False,
    }
    if case.ablate is not None:
        hook_name, feature = case.ablate

        def ablate(acts: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            acts[..., feature] = 0
            return acts

        options["fwd_hooks"] = [(hook_name, ablate)]
        return {"logits": model.run_with_hooks_with_saes(tokens, **options)}
    logits = model.run_with_saes(tokens, **options)
    cached_logits, cached = model.run_with_cache_with_saes(tokens, **options)
    assert torch.equal(logits, cached_logits)
    kept = {name: cached[name] for name in cached if ".hook_sae_" in name}
    return {"logits": logits, **kept, **{name: cached[name] for name in case.also}}


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Errors by entry; infinite where only one side has it, or in another shape."""
    errors = dict.fromkeys(ours.keys() ^ theirs.keys(), float("inf"))
    for key in sorted(ours.keys() & theirs.keys()):
        a, b = ours[key], theirs[key]
        size = max(1.0, float(b.abs().max()))
        errors[key] = float((a - b).abs().max()) / size if a.shape == b.shape else float("inf")
    return errors
