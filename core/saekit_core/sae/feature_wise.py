"""Architectures whose features each look at their own pre-activation alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.weights import ALL, Columns, Weights


@dataclass(frozen=True)
class FeatureWise:
    """An architecture whose feature f depends on its own encoder column only.

    Then a_f = magnitude(p_f) where p_f > threshold_f, and 0 elsewhere. Every function takes the
    features wanted last, and returns per-feature tensors of that shape.
    """

    bias: Callable[[Weights, Columns], Tensor | None]
    """What is added to x̃ W_enc to make p; None for nothing."""
    threshold: Callable[[Weights, Columns], Tensor | float]
    """p must be strictly above it."""
    magnitude: Callable[[Weights, Tensor, Columns], Tensor]
    """Activation of a feature that is above its threshold: (weights, p, features) → a ≥ 0."""
    always_positive: bool
    """Whether a feature above its threshold is never exactly 0."""

    def activate(self, weights: Weights, p: Tensor, features: Columns = ALL) -> Tensor:
        """Feature activations of pre-activations p, both ``[..., features]``."""
        active = p > self.threshold(weights, features)
        magnitude = self.magnitude(weights, p, features)
        return torch.where(active, magnitude, torch.zeros_like(magnitude))


def _b_enc(weights: Weights, features: Columns) -> Tensor:
    return weights["b_enc"][features]


def _same(_weights: Weights, p: Tensor, _features: Columns) -> Tensor:
    return p


def _zero(_weights: Weights, _features: Columns) -> float:
    return 0.0


def _jumprelu_threshold(weights: Weights, features: Columns) -> Tensor:
    # ReLU(p) is 0 for p ≤ 0 whatever θ says.
    return F.relu(weights["threshold"][features])


def _gate_bias(_weights: Weights, _features: Columns) -> None:
    return None  # the two paths add different ones to the shared x̃ W_enc


def _gate_threshold(weights: Weights, features: Columns) -> Tensor:
    return -weights["b_gate"][features]


def gated_pre_magnitude(weights: Weights, p: Tensor, features: Columns = ALL) -> Tensor:
    """What a gated magnitude is the ReLU of: x̃(W_enc·e^r_mag) + b_mag, for p = x̃ W_enc."""
    # x̃(W·e^r) = (x̃W)·e^r, so that one product serves both paths.
    return p * weights["r_mag"][features].exp() + weights["b_mag"][features]


def _gated_magnitude(weights: Weights, p: Tensor, features: Columns) -> Tensor:
    return F.relu(gated_pre_magnitude(weights, p, features))


RELU: Final = FeatureWise(_b_enc, _zero, _same, always_positive=True)
"""ReLU(p)."""
JUMPRELU: Final = FeatureWise(_b_enc, _jumprelu_threshold, _same, always_positive=True)
"""ReLU(p)·1[p > θ], strict."""
GATED: Final = FeatureWise(_gate_bias, _gate_threshold, _gated_magnitude, always_positive=False)
"""1[x̃W_enc + b_gate > 0]·ReLU(x̃(W_enc·e^r_mag) + b_mag)."""
