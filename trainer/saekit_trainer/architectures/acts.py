"""Feature activations of a batch, dense or as a list of the active ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saekit_trainer.architectures.products import decode
from saekit_trainer.architectures.sparse_code import Entries, decode_entries


class Acts(Protocol):
    """Feature activations ``[rows, d_sae]`` in some form."""

    @property
    def values(self) -> Tensor:
        """Those that may differ from 0, in an order of its own."""

    def with_values(self, values: Tensor) -> Acts:
        """Other activations in the same places."""

    def times(self, scale: Tensor) -> Tensor:
        """`values`, each times that of its feature in `scale` ``[d_sae]``."""

    def decode(self, W_dec: Tensor) -> Tensor:
        """acts · W_dec, ``[rows, d_out]``."""

    def sum_over_rows(self) -> Tensor:
        """``[d_sae]``."""

    def count_firing(self, threshold: float) -> Tensor:
        """Rows in which \\|activation\\| > `threshold`, float32 ``[d_sae]``, without a gradient."""

    def dense(self) -> Tensor:
        """``[rows, d_sae]``."""


@dataclass(frozen=True)
class DenseActs:
    """All of them, none negative."""

    values: Tensor
    """``[rows, d_sae]``"""
    positive: Tensor | None = None
    """Rows in which each feature is above 0 ``[d_sae]``, where they are counted already."""

    def with_values(self, values: Tensor) -> DenseActs:
        return DenseActs(values)

    def times(self, scale: Tensor) -> Tensor:
        return self.values * scale

    def decode(self, W_dec: Tensor) -> Tensor:
        return decode(self.values, W_dec)

    def sum_over_rows(self) -> Tensor:
        return self.values.sum(dim=0)

    def count_firing(self, threshold: float) -> Tensor:
        if threshold == 0 and self.positive is not None:
            return self.positive.float()
        # Comparing into numbers and a product with ones: comparing into booleans and summing those
        # over rows takes several times as long.
        firing = torch.empty_like(self.values, requires_grad=False)
        torch.gt(self.values.detach(), threshold, out=firing)
        return (firing.new_ones(len(firing)) @ firing).float()

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class SparseActs:
    """The entries that may differ from 0."""

    entries: Entries
    values: Tensor
    """``[entries]``"""

    def with_values(self, values: Tensor) -> SparseActs:
        return SparseActs(self.entries, values)

    def times(self, scale: Tensor) -> Tensor:
        return self.values * scale.index_select(0, self.entries.features)

    def decode(self, W_dec: Tensor) -> Tensor:
        return decode_entries(self.values, self.entries, W_dec)

    def sum_over_rows(self) -> Tensor:
        sums = self.values.new_zeros(self.entries.d_sae)
        return sums.index_add(0, self.entries.features, self.values)

    def count_firing(self, threshold: float) -> Tensor:
        firing = self.entries.features[self.values.detach().abs() > threshold]
        return torch.bincount(firing, minlength=self.entries.d_sae).float()

    def dense(self) -> Tensor:
        acts = self.values.new_zeros(self.entries.n_rows, self.entries.d_sae)
        # A feature that a row lists twice (matching pursuit) has the sum.
        places = (self.entries.rows, self.entries.features)
        return acts.index_put(places, self.values, accumulate=True)
