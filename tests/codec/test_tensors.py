"""Numbers survive the wire bit for bit, and messages that lie are refused by field."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saekit.codec import CSR, CodecError, numpy_to_tensor, rows_to_csr, sparse_rows, tensor_to_numpy
from saekit.v1 import tensor_pb2 as pb

BITS = st.integers(0, 2**32 - 1)


@given(hnp.arrays(np.uint32, hnp.array_shapes(max_dims=3, max_side=5), elements=BITS))
def test_float32_round_trip_is_bit_exact(bits: np.ndarray) -> None:
    sent = bits.view(np.float32)
    got = tensor_to_numpy(pb.Tensor.FromString(numpy_to_tensor(sent).SerializeToString()))
    assert got.shape == sent.shape
    assert got.tobytes() == sent.tobytes()


@given(hnp.arrays(np.float32, 40, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_rounds_to_nearest_even_as_torch_does(values: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    got = tensor_to_numpy(numpy_to_tensor(values, pb.DATA_TYPE_BF16))
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(got, expected)


def test_bfloat16_keeps_nan() -> None:
    sent = np.array([np.nan, np.inf, -np.inf, -0.0], dtype=np.float32)
    np.testing.assert_array_equal(tensor_to_numpy(numpy_to_tensor(sent, pb.DATA_TYPE_BF16)), sent)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(0, 6), st.integers(1, 9)))
    values = st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.25, 3e-8])
    return draw(hnp.arrays(np.float32, shape, elements=values))


def csr_of(dense: np.ndarray) -> CSR:
    rows, columns = np.nonzero(dense)
    counts = np.bincount(rows, minlength=dense.shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return CSR(indptr, columns.astype(np.uint32), dense[rows, columns], dense.shape)


@given(matrices())
def test_sparse_rows_round_trip_is_bit_exact(dense: np.ndarray) -> None:
    message = pb.SparseRows.FromString(sparse_rows(csr_of(dense)).SerializeToString())
    back = rows_to_csr(message)
    np.testing.assert_array_equal(back.toarray(), dense)
    for r in range(dense.shape[0]):
        features, values = back.row(r)
        np.testing.assert_array_equal(features, np.nonzero(dense[r])[0])
        np.testing.assert_array_equal(values, dense[r][features])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda t: t.ClearField("dtype"), "dtype"),
        (lambda t: setattr(t, "dtype", 77), "dtype"),
        (lambda t: setattr(t, "data", t.data[:-1]), "data"),
        (lambda t: t.shape.__setitem__(0, -2), "shape"),
        (lambda t: t.shape.__setitem__(0, 2**62), "data"),
        (lambda t: t.shape.extend([1] * 9), "shape"),
    ],
)
def test_lying_tensor_is_refused_by_field(change, field: str) -> None:
    tensor = numpy_to_tensor(np.zeros((2, 3), dtype=np.float32))
    change(tensor)
    with pytest.raises(CodecError) as error:
        tensor_to_numpy(tensor)
    assert error.value.field == field


def test_integer_tensor_is_refused_where_floats_are_meant() -> None:
    with pytest.raises(CodecError, match="got I64"):
        tensor_to_numpy(numpy_to_tensor(np.arange(3)), floating=True)


def u32(*numbers: int) -> bytes:
    return np.array(numbers, dtype="<u4").tobytes()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": [2]}, "shape"),
        ({"shape": [2, 2**40]}, "shape"),
        ({"indptr": u32(0, 1)}, "indptr"),
        ({"indptr": u32(1, 1, 3)}, "indptr"),
        ({"indptr": u32(0, 4, 3)}, "indptr"),
        ({"indices": u32(0, 1)}, "indices"),
        ({"indices": u32(0, 1, 8)}, "indices"),
        ({"indices": u32(5, 3, 3)}, "indices"),
        ({"indices": u32(3, 3, 1)}, "indices"),
        ({"values": b"1234"}, "values"),
        ({"value_dtype": pb.DATA_TYPE_I32}, "value_dtype"),
    ],
)
def test_lying_sparse_rows_are_refused_by_field(change: dict, field: str) -> None:
    good = {
        "shape": [2, 8],
        "indptr": u32(0, 2, 3),
        "indices": u32(3, 5, 1),
        "value_dtype": pb.DATA_TYPE_F32,
        "values": np.ones(3, dtype="<f4").tobytes(),
    }
    rows_to_csr(pb.SparseRows(**good))
    with pytest.raises(CodecError) as error:
        rows_to_csr(pb.SparseRows(**(good | change)))
    assert error.value.field == field
