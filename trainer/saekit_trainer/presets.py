"""Values that train well, per architecture, for whatever a configuration leaves open.

They assume activations scaled to a mean norm of √d_in (``expected_average_only_in``) and the MSE
summed over d_in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Preset:
    """What an architecture starts from."""

    lr: float
    """Peak learning rate at 2,048 features; it falls with the root of d_sae."""
    sparsity_coefficient: Callable[[int], float]
    """λ for a width d_in."""
    normalize_sae_decoder: bool
    sparsity_warm_up_share: float
    """Share of the run's steps over which λ grows."""


PRESETS: Final[Mapping[str, Preset]] = {
    # An L1 penalty shifts each activation by about λ/2, and activations grow with √d_in.
    "standard": Preset(3e-3, lambda d: 0.2 * d**0.5, False, 0.1),
    "topk": Preset(3e-3, lambda _: 0.0, True, 0.0),
    # A feature pays when it lowers the squared error by λ, and squared errors grow with d_in.
    "jumprelu": Preset(3e-3, lambda d: 0.02 * d, False, 0.5),
}

DEFAULT_K: Final = 32
REFERENCE_D_SAE: Final = 2048


def preset_learning_rate(architecture: str, d_sae: int) -> float:
    """Peak learning rate of an SAE with `d_sae` features."""
    return float(PRESETS[architecture].lr * min(1.0, (REFERENCE_D_SAE / d_sae) ** 0.5))


def preset_sparsity(architecture: str, d_in: int, mse_reduction: str) -> float:
    """λ of an SAE on activations of width `d_in`, on the scale of the MSE."""
    coefficient = PRESETS[architecture].sparsity_coefficient(d_in)
    return coefficient / d_in if mse_reduction == "mean" else coefficient
