"""Sparse feature activations in memory: compressed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.sae.errors import SAEError

_MAX_ENTRIES: Final = 2**32 - 1


@dataclass(frozen=True, eq=False)
class SparseActs:
    """Feature activations of N rows in CSR form: row i has entries indptr[i]:indptr[i+1]."""

    indptr: NDArray[np.uint32]
    """``[N + 1]``, beginning with 0."""
    indices: NDArray[np.uint32]
    """``[nnz]``: features, ascending within a row."""
    values: Tensor
    """``[nnz]`` on the CPU, in the SAE's dtype; never 0."""
    n_rows: int
    d_sae: int

    @classmethod
    def from_counts(
        cls, counts: NDArray[np.int64], indices: NDArray[np.uint32], values: Tensor, d_sae: int
    ) -> SparseActs:
        """Build from the number of entries of each row, ``[N]``.

        Raises:
            SAEError: more entries than an index can count.
        """
        ends = counts.cumsum()
        if ends.size and ends[-1] > _MAX_ENTRIES:
            raise SAEError(f"activations: {ends[-1]} active features in one result", field="x")
        indptr = np.concatenate([[0], ends]).astype(np.uint32)
        return cls(indptr, indices, values, len(counts), d_sae)

    @classmethod
    def from_dense(cls, acts: Tensor) -> SparseActs:
        """The active entries of ``[N, d_sae]``."""
        rows, features = acts.nonzero(as_tuple=True)
        return cls.from_counts(
            torch.bincount(rows, minlength=len(acts)).cpu().numpy(),
            features.cpu().numpy().astype(np.uint32),
            acts[rows, features].cpu(),
            acts.shape[1],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[SparseActs]) -> SparseActs:
        """The rows of one or more parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls.from_counts(
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.indices for part in parts]),
            torch.cat([part.values for part in parts]),
            parts[0].d_sae,
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """``[N]``: the number of active features of each row (its L0)."""
        starts = self.indptr.astype(np.int64)
        return starts[1:] - starts[:-1]

    def row_of_entry(self) -> NDArray[np.int64]:
        """``[nnz]``: the row to which each entry belongs."""
        return np.repeat(np.arange(self.n_rows), self.counts)

    def rows(self, start: int, stop: int) -> SparseActs:
        """Rows start..stop-1; indices and values are views."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return SparseActs(
            indptr=self.indptr[start : stop + 1] - self.indptr[start],
            indices=self.indices[first:last],
            values=self.values[first:last],
            n_rows=stop - start,
            d_sae=self.d_sae,
        )

    def keep_largest(self, k: int) -> SparseActs:
        """The k largest activations by magnitude of each row (the lower index of equals), still
        ascending by feature."""
        counts = self.counts
        if counts.size == 0 or counts.max() <= k:
            return self
        rows = self.row_of_entry()
        descending = np.lexsort((-self.values.to(torch.float64).abs().numpy(), rows))
        rank = np.empty(len(rows), dtype=np.int64)
        rank[descending] = np.arange(len(rows)) - self.indptr[rows]
        kept = rank < k
        return SparseActs.from_counts(
            np.minimum(counts, k),
            self.indices[kept],
            self.values[torch.from_numpy(kept)],
            self.d_sae,
        )

    def to_dense(self) -> Tensor:
        """``[N, d_sae]``."""
        dense = self.values.new_zeros((self.n_rows, self.d_sae))
        rows = torch.from_numpy(self.row_of_entry())
        dense[rows, torch.from_numpy(self.indices.astype(np.int64))] = self.values
        return dense
