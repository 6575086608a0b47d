"""How well an SAE reconstructs and how sparse it is, over any number of batches.

Sums are kept in float64: the variance of activations with a large mean is a small difference of
large numbers.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_SMALLEST_NORM: Final = 1e-4
"""Activations shorter than this have no ratio of norms worth taking; they count as of norm 1."""


def to_float64(x: Tensor) -> Tensor:
    """`x` without gradient in float64, on the CPU where its device has no such numbers."""
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()


class ReconstructionStats:
    """How far the reconstructions x̂ are from what they stand for, x.

    Attributes:
        rows: tokens counted.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._error = 0.0
        self._norm = 0.0
        self._norm_hat = 0.0
        self._ratio = 0.0
        self._square = 0.0
        self._square_hat = 0.0
        self._product = 0.0
        self._cosine = 0.0
        self._sum: Tensor | None = None

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """Count activations `x` and their reconstructions, both ``[rows, d]``."""
        x = to_float64(x)
        x_hat = to_float64(x_hat).to(x.device)
        norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
        product = (x * x_hat).sum(dim=1)
        self.rows += len(x)
        self._error += float((x - x_hat).square().sum())
        self._norm += float(norm.sum())
        self._norm_hat += float(norm_hat.sum())
        self._ratio += float((norm_hat / norm.where(norm >= _SMALLEST_NORM, 1.0)).sum())
        self._square += float(norm.square().sum())
        self._square_hat += float(norm_hat.square().sum())
        self._product += float(product.sum())
        self._cosine += float((product / (norm * norm_hat).where(product != 0, 1.0)).sum())
        total = x.sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total

    @property
    def explained_variance(self) -> float:
        """1 − E‖x−x̂‖²/(E‖x‖²−‖E x‖²); nan before any row or without any variance."""
        if self._sum is None:
            return math.nan
        variance = self._square / self.rows - float((self._sum / self.rows).square().sum())
        return 1.0 - self._error / self.rows / variance if variance > 0 else math.nan

    @property
    def mse(self) -> float:
        """E‖x−x̂‖²: summed over d, averaged over tokens."""
        return _ratio(self._error, self.rows)

    @property
    def cosine_similarity(self) -> float:
        """E[x·x̂/(‖x‖‖x̂‖)], 0 where either is zero."""
        return _ratio(self._cosine, self.rows)

    @property
    def shrinkage(self) -> float:
        """E‖x̂‖/E‖x‖: below 1 where reconstructions come out too short."""
        return _ratio(self._norm_hat, self._norm)

    @property
    def l2_ratio(self) -> float:
        """E[‖x̂‖/‖x‖]: the same, with every token of equal weight."""
        return _ratio(self._ratio, self.rows)

    @property
    def relative_reconstruction_bias(self) -> float:
        """E‖x̂‖²/E[x·x̂], below 1 where shrunk (Rajamanoharan et al. 2024, eq. 10)."""
        return _ratio(self._square_hat, self._product)


class FeatureStats:
    """How often and how strongly the features of an SAE are active.

    Attributes:
        rows: tokens counted.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._counts: Tensor | None = None
        self._l1 = 0.0

    def add(self, acts: Tensor) -> None:
        """Count feature activations ``[rows, d_sae]``."""
        self.rows += len(acts)
        self._l1 += float(to_float64(acts.abs().sum(dim=1, dtype=torch.float32)).sum())
        counts = to_float64(count_active(acts, 0.0))
        self._counts = counts if self._counts is None else self._counts + counts

    @property
    def l0(self) -> float:
        """Active features per token: those that are not 0, of either sign."""
        return math.nan if self._counts is None else _ratio(float(self._counts.sum()), self.rows)

    @property
    def l1(self) -> float:
        """E Σ|a|: summed over features, averaged over tokens."""
        return _ratio(self._l1, self.rows)

    @property
    def density(self) -> Tensor:
        """Share of tokens on which each feature is active, float64 ``[d_sae]`` on the CPU."""
        if self._counts is None:
            return torch.zeros(0, dtype=torch.float64)
        return self._counts.cpu() / max(self.rows, 1)

    @property
    def alive(self) -> int:
        """Features that are active on at least one token."""
        return 0 if self._counts is None else int((self._counts > 0).sum())


def explained_variance(x: Tensor, x_hat: Tensor) -> float:
    """`ReconstructionStats.explained_variance` of one batch, both ``[rows, d]``."""
    stats = ReconstructionStats()
    stats.add(x, x_hat)
    return stats.explained_variance


def count_active(acts: Tensor, threshold: float) -> Tensor:
    """Rows of `acts` ``[rows, d_sae]`` in which |activation| > `threshold`: float32 ``[d_sae]``."""
    # Arithmetic and a product with ones: comparing, converting the booleans and summing them over
    # rows takes several times as long.
    active = acts.detach().abs().float().sub_(threshold).sign_().relu_()
    return active.new_ones(len(acts)) @ active


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
