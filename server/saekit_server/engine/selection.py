"""From all feature activations of one input to what its caller asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from saekit.codec import CSR

Floats = npt.NDArray[np.float32]


class Pooling(Enum):
    """How the rows of one input become one row."""

    NONE = "none"
    MAX = "max"
    MEAN = "mean"
    SUM = "sum"
    LAST = "last"


@dataclass(frozen=True)
class Selection:
    """Which features of a row are wanted, and how they are returned.

    top_k: the k largest of each row; None for no limit.
    features: [n] only these; None for all.
    dense: a dense array instead of sparse rows.
    pooling: applied before the choice of features.
    """

    top_k: int | None = None
    features: npt.NDArray[np.int64] | None = None
    dense: bool = False
    pooling: Pooling = Pooling.NONE

    def apply(self, acts: CSR) -> "CSR | Floats":
        """The wanted activations.

        Args:
            acts: every active feature of the rows, shape (rows, d_sae).

        Returns:
            Sparse rows of shape (rows or 1, d_sae), or dense float32 [rows or 1, d_sae or n] with
            the columns in the order of `features`.
        """
        pooled = _POOL[self.pooling](acts)
        if self.dense:
            if self.features is None:
                return pooled.toarray()
            return _columns(pooled, self.features)
        if self.features is not None:
            return _only(pooled, self.features)
        if self.top_k is not None:
            return top_k(pooled, self.top_k)
        return pooled


def take_rows(acts: CSR, rows: npt.NDArray[np.int64]) -> CSR:
    """The given rows, in the given order."""
    indptr = acts.indptr.astype(np.int64)
    starts, counts = indptr[rows], indptr[rows + 1] - indptr[rows]
    ends = np.cumsum(counts)
    entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
    return CSR(
        np.concatenate([[0], ends]).astype(np.uint32),
        acts.indices[entries],
        acts.data[entries],
        (len(rows), acts.shape[1]),
    )


def top_k(acts: CSR, k: int) -> CSR:
    """The k largest activations by magnitude of each row; ties go to the lower feature."""
    rows = acts.row_of_each()
    order = np.lexsort((acts.indices, -np.abs(acts.data), rows))
    rank = np.arange(acts.nnz) - acts.indptr[rows].astype(np.int64)
    return _keep(acts, np.sort(order[rank < k]))


def _only(acts: CSR, features: npt.NDArray[np.int64]) -> CSR:
    return _keep(acts, np.flatnonzero(np.isin(acts.indices, features)))


def _columns(acts: CSR, features: npt.NDArray[np.int64]) -> Floats:
    column = np.full(acts.shape[1], -1, dtype=np.int64)
    column[features] = np.arange(len(features))
    wanted = column[acts.indices]
    here = np.flatnonzero(wanted >= 0)
    dense = np.zeros((acts.shape[0], len(features)), dtype=np.float32)
    dense[acts.row_of_each()[here], wanted[here]] = acts.data[here]
    return dense


def _keep(acts: CSR, entries: npt.NDArray[np.int64]) -> CSR:
    counts = np.bincount(acts.row_of_each()[entries], minlength=acts.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return CSR(indptr, acts.indices[entries], acts.data[entries], acts.shape)


def _reduce(acts: CSR, values: npt.NDArray[np.float64], features: npt.NDArray[np.int64]) -> CSR:
    active = np.flatnonzero(values)
    return CSR(
        np.array([0, len(active)], dtype=np.uint32),
        features[active].astype(np.uint32),
        values[active].astype(np.float32),
        (1, acts.shape[1]),
    )


def _pool_sum(acts: CSR) -> CSR:
    features, place = np.unique(acts.indices, return_inverse=True)
    sums = np.zeros(len(features))
    np.add.at(sums, place, acts.data)
    return _reduce(acts, sums, features.astype(np.int64))


def _pool_mean(acts: CSR) -> CSR:
    total = _pool_sum(acts)
    return CSR(total.indptr, total.indices, total.data / max(acts.shape[0], 1), total.shape)


def _pool_max(acts: CSR) -> CSR:
    features, place, counts = np.unique(acts.indices, return_inverse=True, return_counts=True)
    # A feature that is missing from some row has the activation 0 there.
    best = np.where(counts < acts.shape[0], 0.0, -np.inf)
    np.maximum.at(best, place, acts.data)
    return _reduce(acts, best, features.astype(np.int64))


def _pool_last(acts: CSR) -> CSR:
    return take_rows(acts, np.arange(max(acts.shape[0] - 1, 0), acts.shape[0]))


_POOL: dict[Pooling, Callable[[CSR], CSR]] = {
    Pooling.NONE: lambda acts: acts,
    Pooling.MAX: _pool_max,
    Pooling.MEAN: _pool_mean,
    Pooling.SUM: _pool_sum,
    Pooling.LAST: _pool_last,
}
