"""The factor that normalised activations are scaled by, folded into an SAE's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEError

FOLDED_FROM = "expected_average_only_in"
"""The normalisation that a factor belongs to."""


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
