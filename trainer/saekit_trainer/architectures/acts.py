"""Feature activations of a batch, dense or as a list of the active ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Acts(Protocol):
    """Feature activations ``[rows, d_sae]`` in some form; they carry no gradient."""

    def count_firing(self, threshold: float) -> Tensor:
        """Rows in which \\|activation\\| > `threshold`, float32 ``[d_sae]``."""

    def dense(self) -> Tensor:
        """``[rows, d_sae]``."""


@dataclass(frozen=True)
class DenseActs:
    """All of them, none negative."""

    values: Tensor
    """``[rows, d_sae]``"""

    def count_firing(self, threshold: float) -> Tensor:
        # Comparing into numbers and a product with ones: comparing into booleans and summing those
        # over rows takes several times as long.
        firing = torch.empty_like(self.values)
        torch.gt(self.values, threshold, out=firing)
        return (firing.new_ones(len(firing)) @ firing).float()

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class SparseActs:
    """The entries that may differ from 0."""

    rows: Tensor
    """int64 ``[entries]``"""
    features: Tensor
    """int64 ``[entries]``"""
    values: Tensor
    """``[entries]``"""
    shape: tuple[int, int]
    """``(rows, d_sae)``"""

    def count_firing(self, threshold: float) -> Tensor:
        firing = self.features[self.values.abs() > threshold]
        return torch.bincount(firing, minlength=self.shape[1]).float()

    def dense(self) -> Tensor:
        acts = self.values.new_zeros(self.shape)
        # A feature that a row lists twice (matching pursuit) has the sum.
        return acts.index_put_((self.rows, self.features), self.values, accumulate=True)
