"""What comes back of an input's features is exactly what was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saekit.codec import CSR
from saekit_server.engine.selection import Pooling, Selection, take_rows, top_k

VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 2.5, -1.5])
DENSE = st.tuples(st.integers(1, 6), st.integers(1, 12)).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=VALUES)
)


def csr_of(dense: np.ndarray) -> CSR:
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))])
    return CSR(
        indptr.astype(np.uint32), columns.astype(np.uint32), dense[rows, columns], dense.shape
    )


REFERENCE = {
    Pooling.NONE: lambda a: a,
    Pooling.MAX: lambda a: a.max(axis=0, keepdims=True),
    Pooling.MEAN: lambda a: a.mean(axis=0, keepdims=True),
    Pooling.SUM: lambda a: a.sum(axis=0, keepdims=True),
    Pooling.LAST: lambda a: a[-1:],
}


@pytest.mark.parametrize("pooling", Pooling)
@given(dense=DENSE)
def test_pooling_equals_the_dense_formula(pooling: Pooling, dense: np.ndarray) -> None:
    got = Selection(pooling=pooling).apply(csr_of(dense))
    assert isinstance(got, CSR)
    np.testing.assert_allclose(got.toarray(), REFERENCE[pooling](dense), rtol=1e-6)
    assert (np.diff(got.indices.astype(int))[np.diff(got.row_of_each()) == 0] > 0).all()


@given(dense=DENSE, k=st.integers(1, 12))
def test_top_k_keeps_the_largest_by_magnitude_of_each_row(dense: np.ndarray, k: int) -> None:
    got = top_k(csr_of(dense), k).toarray()
    for row, kept in zip(dense, got, strict=True):
        active = np.flatnonzero(row)
        best = active[np.lexsort((active, -np.abs(row[active])))][:k]
        expected = np.zeros_like(row)
        expected[best] = row[best]
        np.testing.assert_array_equal(kept, expected)


@given(dense=DENSE, data=st.data())
def test_named_features_come_in_the_order_named(dense: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(dense.shape[1])))
    features = np.array(order[: data.draw(st.integers(1, len(order)))])
    columns = Selection(features=features, dense=True).apply(csr_of(dense))
    np.testing.assert_array_equal(columns, dense[:, features])
    sparse = Selection(features=features).apply(csr_of(dense))
    assert isinstance(sparse, CSR)
    mask = np.isin(np.arange(dense.shape[1]), features)
    np.testing.assert_array_equal(sparse.toarray(), dense * mask)


@given(dense=DENSE, data=st.data())
def test_taken_rows_are_those_rows(dense: np.ndarray, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(dense) - 1))), dtype=np.int64)
    np.testing.assert_array_equal(take_rows(csr_of(dense), rows).toarray(), dense[rows])
