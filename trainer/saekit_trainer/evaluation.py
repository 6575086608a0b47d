"""How good an SAE is: what it loses of the activations, and what the model loses with it.

Everything is measured on the same tokens in three runs of the model: a clean one, which also gives
the activations, one with the reconstructions spliced in, and one with the hook point zeroed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from saekit_core.lm.bridged import BridgedModel, as_tapped
from saekit_core.lm.predictions import ce_loss_score, kl_score
from saekit_core.sae.sae import SAE
from saekit_trainer.errors import DatasetError
from saekit_trainer.evaluator import Evaluator

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from saekit_core.lm.model import LanguageModel

_LOGITS_BYTES: Final = 512 << 20
"""What the logits of one run may take, if it is more than one context; two are held at a time."""


@dataclass(frozen=True)
class ReconstructionFigures:
    """What an SAE does to activations, over `tokens` tokens."""

    tokens: int
    """Tokens counted: those that are not left out."""
    l0: float
    """Active features per token."""
    l1: float
    """Sum of |feature activations| per token."""
    explained_variance: float
    """1 − E‖x−x̂‖²/(E‖x‖²−‖E x‖²)."""
    mse: float
    """E‖x−x̂‖²: summed over d, averaged over tokens."""
    cosine_similarity: float
    """E[cos(x, x̂)]."""
    shrinkage: float
    """E‖x̂‖/E‖x‖."""
    l2_ratio: float
    """E[‖x̂‖/‖x‖]."""
    relative_reconstruction_bias: float
    """E‖x̂‖²/E[x·x̂]."""
    dead_features: int
    """Features that are active on no token."""
    fraction_alive: float
    """Share of the features that are active on some token."""
    density: Tensor = field(repr=False, compare=False)
    """Share of tokens on which each feature is active, float64 ``[d_sae]``."""
    active_per_token: Tensor = field(repr=False, compare=False)
    """Active features of each token, int64 ``[tokens]``; `l0` is their mean."""

    def to_dict(self) -> dict[str, float]:
        """Every figure but those of single features and tokens, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if not isinstance(value, Tensor)}


@dataclass(frozen=True)
class Evaluation(ReconstructionFigures):
    """`ReconstructionFigures`, and what the model predicts with the SAE in it; in nats."""

    ce_loss_clean: float
    """Cross entropy of the next token, mean over tokens."""
    ce_loss_sae: float
    """With the reconstruction spliced in."""
    ce_loss_zero: float
    """With zeros spliced in."""
    kl_sae: float
    """KL(clean ‖ spliced) of the next token's distribution, mean over tokens."""
    kl_zero: float
    """KL(clean ‖ zeros spliced in)."""

    @property
    def ce_loss_score(self) -> float:
        """(CE_zero − CE_sae)/(CE_zero − CE_clean): 1 if nothing is lost, 0 if all is."""
        return ce_loss_score(
            clean=self.ce_loss_clean, spliced=self.ce_loss_sae, ablated=self.ce_loss_zero
        )

    @property
    def kl_score(self) -> float:
        """(KL_zero − KL_sae)/KL_zero: 1 if nothing is lost, 0 if all is."""
        return kl_score(spliced=self.kl_sae, ablated=self.kl_zero)

    def to_dict(self) -> dict[str, float]:
        """Every figure but those of single features and tokens, by name."""
        scores = {"ce_loss_score": self.ce_loss_score, "kl_score": self.kl_score}
        return {**super().to_dict(), **scores}


Progress = Callable[[int], None]
"""Is told how many contexts have been done since it was last called."""


@torch.no_grad()
def evaluate_reconstruction(
    model: LanguageModel | BridgedModel | TransformerBridge,
    sae: SAE,
    tokens: Tensor,
    *,
    batch_size_prompts: int = 16,
    exclude_special_tokens: bool | Sequence[int] = True,
    progress: Progress | None = None,
) -> ReconstructionFigures:
    """Measure `sae` on `tokens` without running the model beyond it.

    Args and errors as `evaluate`; one token per context will do.
    """
    evaluator = Evaluator(as_tapped(model), sae, exclude_special_tokens)
    for rows in torch.split(_checked(tokens), batch_size_prompts):
        evaluator.add_reconstruction(rows.to(evaluator.model.device))
        if progress is not None:
            progress(len(rows))
    return ReconstructionFigures(**_reconstruction_fields(evaluator))


@torch.no_grad()
def evaluate(
    model: LanguageModel | BridgedModel | TransformerBridge,
    sae: SAE,
    tokens: Tensor,
    *,
    batch_size_prompts: int = 16,
    exclude_special_tokens: bool | Sequence[int] = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure `sae` on `tokens`.

    Special tokens (BOS, EOS, padding and separators) are left out, as SAELens' `run_evals` leaves
    them out: they count in no figure, the reconstruction is not spliced in at them, and what the
    model predicts after them is not looked at. The zeros alone go everywhere.

    A transcoder is held against the activations where its output belongs, and replaces them.

    Args:
        model: the model of the SAE.
        sae: its metadata name the hook point, or both of them.
        tokens: int64 ``[prompts, context]``, at least two tokens per context.
        batch_size_prompts: contexts per run of the model; fewer where their logits would take
            more than half a gigabyte.
        exclude_special_tokens: False: every token counts. Ids: leave out these instead.
        progress: is told of contexts done.

    Raises:
        LMError: the SAE names no hook point of the model, or does not fit there.
        DatasetError: there is no token that counts, or nothing to predict.
    """
    evaluator = Evaluator(as_tapped(model), sae, exclude_special_tokens)
    context = _checked(tokens).shape[1]
    fit = _LOGITS_BYTES // (context * evaluator.model.d_vocab * torch.float32.itemsize)
    for rows in torch.split(tokens, max(1, min(batch_size_prompts, fit))):
        evaluator.add(rows.to(evaluator.model.device))
        if progress is not None:
            progress(len(rows))
    figures = _reconstruction_fields(evaluator)
    if not evaluator.predicted:
        raise DatasetError("tokens: nothing to predict", field="tokens")
    for name, loss in evaluator.losses.items():
        figures[f"ce_loss_{name}"] = loss / evaluator.predicted
    for name, divergence in evaluator.divergences.items():
        figures[f"kl_{name}"] = divergence / evaluator.reconstruction.rows
    return Evaluation(**figures)


def _reconstruction_fields(evaluator: Evaluator) -> dict[str, Any]:
    stats, features = evaluator.reconstruction, evaluator.features
    if not stats.rows:
        raise DatasetError("tokens: nothing but special tokens", field="tokens")
    d_sae = evaluator.bound.sae.cfg.d_sae
    return {
        "tokens": stats.rows,
        "l0": features.l0,
        "l1": features.l1,
        "explained_variance": stats.explained_variance,
        "mse": stats.mse,
        "cosine_similarity": stats.cosine_similarity,
        "shrinkage": stats.shrinkage,
        "l2_ratio": stats.l2_ratio,
        "relative_reconstruction_bias": stats.relative_reconstruction_bias,
        "dead_features": d_sae - features.alive,
        "fraction_alive": features.alive / d_sae,
        "density": features.density,
        "active_per_token": torch.cat(evaluator.active_per_token),
    }


def _checked(tokens: Tensor) -> Tensor:
    if tokens.dim() != 2 or tokens.is_floating_point():
        raise DatasetError(
            f"tokens: {tokens.dtype} of shape {list(tokens.shape)}; expected ids "
            "[prompts, context]",
            field="tokens",
        )
    return tokens
