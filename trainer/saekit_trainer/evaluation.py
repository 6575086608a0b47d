"""How good a finished SAE is, on tokens that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.reconstruction_stats import ReconstructionStats, count_active


@dataclass(frozen=True)
class Evaluation:
    """Figures over `tokens` tokens; special tokens are left out of all of them.

    They are neither encoded nor spliced, and what the model predicts after them does not count.
    """

    tokens: int
    explained_variance: float
    """1 − E‖x−x̂‖²/(E‖x‖²−‖E x‖²)."""
    l0: float
    """Active features per token."""
    dead_features: int
    """Features that are active on no token."""
    shrinkage: float
    """E‖x̂‖/E‖x‖."""
    ce_loss_clean: float
    """Cross entropy of the next token, nats."""
    ce_loss_sae: float
    """With the reconstruction spliced in."""
    ce_loss_zero: float
    """With zeros spliced in."""

    @property
    def ce_loss_score(self) -> float:
        """(CE_zero − CE_sae)/(CE_zero − CE_clean): 1 if nothing is lost, 0 if all is."""
        span = self.ce_loss_zero - self.ce_loss_clean
        return (self.ce_loss_zero - self.ce_loss_sae) / span if span else float("nan")

    def to_dict(self) -> dict[str, float]:
        """All figures by name."""
        return {**asdict(self), "ce_loss_score": self.ce_loss_score}


@torch.no_grad()
def evaluate(
    model: LanguageModel, sae: SAE, tokens: Tensor, *, batch_size_prompts: int = 16
) -> Evaluation:
    """Measure `sae` on `tokens`.

    Args:
        model: the model of the SAE.
        sae: its metadata name the hook point.
        tokens: int64 ``[prompts, context]``, at least two tokens per context.
        batch_size_prompts: contexts per run of the model.

    Raises:
        ConfigError: the SAE names no hook point, or one of another width.
        DatasetError: there is no token but special ones.
    """
    hook = sae_hook(model, sae)
    stats = ReconstructionStats()
    fired = torch.zeros(sae.cfg.d_sae, device=model.device)
    ce = {"clean": 0.0, "sae": 0.0, "zero": 0.0}
    predicted = 0
    for rows in torch.split(tokens.to(model.device), batch_size_prompts):
        special = model.tokenizer.is_special(rows.flatten().cpu().numpy())
        keep = ~torch.from_numpy(special).view(rows.shape).to(model.device)

        def measure(h: Tensor, keep: Tensor = keep) -> None:
            x = h.flatten(2)[keep]
            acts, state = sae.encode_with_state(x)
            stats.add(x, sae.decode(acts, state))
            fired.add_(count_active(acts, 0.0))

        splices: dict[str, Tap] = {
            "clean": measure,
            "sae": _replacing(keep, lambda h: sae(h.flatten(2)).view(h.shape).to(h.dtype)),
            "zero": _replacing(keep, torch.zeros_like),
        }
        for name, tap in splices.items():
            ce[name] += _next_token_loss(model, rows, keep, hook, tap)
        predicted += int(keep[:, :-1].sum())
    if not stats.rows or not predicted:
        raise DatasetError("tokens: nothing but special tokens", field="tokens")
    return Evaluation(
        tokens=stats.rows,
        explained_variance=stats.explained_variance,
        l0=float(fired.sum()) / stats.rows,
        dead_features=int((fired == 0).sum()),
        shrinkage=stats.shrinkage,
        ce_loss_clean=ce["clean"] / predicted,
        ce_loss_sae=ce["sae"] / predicted,
        ce_loss_zero=ce["zero"] / predicted,
    )


def sae_hook(model: LanguageModel, sae: SAE) -> HookPoint:
    """The hook point that `sae` reads in `model`.

    Raises:
        ConfigError: the SAE names none, or its width is another.
        UnknownHookPointError: the model has none of that name.
    """
    if sae.cfg.hook_name is None:
        raise ConfigError("sae: its metadata name no hook point", field="hook_name")
    hook = model.hook_point(sae.cfg.hook_name)
    if hook.d != sae.cfg.d_in:
        raise ConfigError(
            f"sae: d_in={sae.cfg.d_in}, but {hook.name} is {hook.d} wide", field="d_in"
        )
    return hook


def _replacing(keep: Tensor, new: Callable[[Tensor], Tensor]) -> Tap:
    """A tap that replaces activations where `keep` ``[rows, positions]`` says so."""

    def tap(h: Tensor) -> Tensor:
        mask = keep.view(*keep.shape, *(1,) * (h.dim() - 2))
        return torch.where(mask, new(h), h)

    return tap


def _next_token_loss(
    model: LanguageModel, tokens: Tensor, keep: Tensor, hook: HookPoint, tap: Tap
) -> float:
    """Sum of the cross entropies of what follows each kept token, nats."""
    width = tokens.shape[1]
    rows, positions = keep[:, :-1].nonzero(as_tuple=True)
    logits = model.forward(tokens, taps={hook: tap}, logits_at=rows * width + positions)
    assert logits is not None
    return float(F.cross_entropy(logits, tokens[rows, positions + 1], reduction="sum"))
