"""Factors folded into an SAE's weights: of its input, and of its decoder rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from saekit_core.sae.architectures import architecture_of
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError
from saekit_core.sae.top_k import TopK
from saekit_core.sae.weights import Weights, decoder_norms

FOLDED_FROM = "expected_average_only_in"
"""The normalisation that a factor belongs to."""
_SMALLEST_NORM = 1e-8


def folded_config(cfg: SAEConfig, factor: float) -> SAEConfig:
    """The configuration of an SAE that encodes x as `cfg` encodes factor·x.

    Raises:
        SAEError: the factor is not above 0, or a temporal SAE, whose codes are no linear functions.
    """
    if not 0 < factor < float("inf"):
        raise SAEError(f"norm_scaling_factor: {factor} is not above 0", field="norm_scaling_factor")
    if cfg.architecture == "temporal":
        raise SAEError("norm_scaling_factor: cannot be folded into temporal", field="architecture")
    threshold = cfg.residual_threshold
    return replace(
        cfg,
        normalize_activations="none",
        residual_threshold=None if threshold is None else threshold / factor,
    )


def folded_weights(weights: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The weights that go with `folded_config`: W_enc·s, W_dec/s, b_dec/s, as SAELens folds them.

    Pre-activations stay what they are, and with them biases and thresholds. Matching pursuit has
    its decoder for an encoder, so that W_dec stays, and feature activations shrink by s instead.
    """
    folded = dict(weights)
    folded["b_dec"] = weights["b_dec"] / factor
    if "W_enc" in weights:
        folded["W_enc"] = weights["W_enc"] * factor
        folded["W_dec"] = weights["W_dec"] / factor
    return folded


def fold_decoder_norms(cfg: SAEConfig, weights: Weights) -> None:
    """Make decoder rows unit vectors and the encoder carry their norms, in place.

    Raises:
        SAEError: a kind that would then select other features.
    """
    architecture = architecture_of(cfg)
    scaled = architecture.scaled_by_norm
    top_k = isinstance(architecture.select, TopK)
    if scaled is None or (top_k and not cfg.rescale_acts_by_decoder_norm):
        remedy = ", unless it has rescale_acts_by_decoder_norm" if top_k else ""
        raise SAEError(
            f"fold_W_dec_norm: would change which features a {cfg.architecture} SAE selects"
            f"{remedy}",
            field="rescale_acts_by_decoder_norm" if top_k else "architecture",
        )
    norms = decoder_norms(weights).clamp(min=_SMALLEST_NORM)
    weights["W_dec"].div_(norms[:, None])
    for name in ("W_enc", *scaled):
        weights[name].mul_(norms)
