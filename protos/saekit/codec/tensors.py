"""Tensor and SparseRows messages to and from numpy arrays."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saekit.codec.errors import CodecError
from saekit.v1 import tensor_pb2 as pb

Array = npt.NDArray[Any]

MAX_AXES = 8

# bfloat16 has no numpy type: its bits travel as u16.
_WIRE: "dict[pb.DataType, np.dtype[Any]]" = {
    pb.DATA_TYPE_F32: np.dtype("<f4"),
    pb.DATA_TYPE_F16: np.dtype("<f2"),
    pb.DATA_TYPE_BF16: np.dtype("<u2"),
    pb.DATA_TYPE_I32: np.dtype("<i4"),
    pb.DATA_TYPE_I64: np.dtype("<i8"),
    pb.DATA_TYPE_U32: np.dtype("<u4"),
}
_FLOATS: "dict[pb.DataType, str]" = {
    pb.DATA_TYPE_F32: "float32",
    pb.DATA_TYPE_F16: "float16",
    pb.DATA_TYPE_BF16: "bfloat16",
}
_OF_NUMPY = {_WIRE[code]: code for code in _WIRE if code != pb.DATA_TYPE_BF16}


@dataclass(frozen=True)
class CSR:
    """Sparse rows as plain arrays; the fields are those that scipy.sparse.csr_array takes.

    indptr: u32 [rows + 1]; indices: u32 [nnz], ascending within a row; data: float [nnz];
    shape: (rows, d_sae).
    """

    indptr: npt.NDArray[np.uint32]
    indices: npt.NDArray[np.uint32]
    data: Array
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """Number of stored activations."""
        return len(self.indices)

    def row(self, r: int) -> tuple[npt.NDArray[np.uint32], Array]:
        """Features and activations of row r."""
        if not -self.shape[0] <= r < self.shape[0]:
            raise IndexError(f"row {r} is outside the {self.shape[0]} rows")
        r %= max(self.shape[0], 1)
        span = slice(int(self.indptr[r]), int(self.indptr[r + 1]))
        return self.indices[span], self.data[span]

    def row_of_each(self) -> npt.NDArray[np.int64]:
        """Row number of each stored activation, [nnz]."""
        counts: npt.NDArray[np.int64] = np.diff(self.indptr).astype(np.int64)
        return np.repeat(np.arange(self.shape[0]), counts)

    def toarray(self) -> npt.NDArray[np.float32]:
        """Dense float32 [rows, d_sae]."""
        dense = np.zeros(self.shape, dtype=np.float32)
        dense[self.row_of_each(), self.indices] = self.data
        return dense


def float_dtype_name(code: "pb.DataType", *, field: str = "dtype") -> str:
    """Name of a floating-point DataType: float32, float16 or bfloat16.

    Raises:
        CodecError: the type is not a floating-point one.
    """
    if code not in _FLOATS:
        raise CodecError(field, f"expected F32, F16 or BF16, got {_name(code)}")
    return _FLOATS[code]


def numpy_to_tensor(array: Array, dtype: "pb.DataType" = pb.DATA_TYPE_UNSPECIFIED) -> pb.Tensor:
    """A Tensor of an array; `dtype` converts floats to F32, F16 or BF16 on the way."""
    if dtype == pb.DATA_TYPE_UNSPECIFIED:
        code = _OF_NUMPY.get(array.dtype.newbyteorder("<"))
        if code is None:
            raise CodecError("dtype", f"arrays of {array.dtype} do not travel")
        return pb.Tensor(dtype=code, shape=array.shape, data=_bytes(array, _WIRE[code]))
    return pb.Tensor(dtype=dtype, shape=array.shape, data=_float_bytes(array, dtype))


def bits_to_tensor(bits: npt.NDArray[np.uint16]) -> pb.Tensor:
    """A BF16 Tensor of raw bfloat16 bits."""
    return pb.Tensor(dtype=pb.DATA_TYPE_BF16, shape=bits.shape, data=_bytes(bits, np.dtype("<u2")))


def tensor_to_numpy(tensor: pb.Tensor, *, floating: bool = False) -> Array:
    """The array of a Tensor, read-only; BF16 becomes float32, which holds it exactly.

    Args:
        tensor: the message.
        floating: refuse integer types.

    Raises:
        CodecError: unknown type, bad shape, or a byte count that does not match.
    """
    code = tensor.dtype
    if code not in _WIRE:
        raise CodecError("dtype", f"expected a data type, got {_name(code)}")
    if floating:
        float_dtype_name(code)
    shape = tuple(tensor.shape)
    wire = _WIRE[code]
    data = tensor.data  # each access copies
    _check_bytes("data", len(data), shape, wire)
    array = np.frombuffer(data, dtype=wire).reshape(shape)
    return _widen_bf16(array) if code == pb.DATA_TYPE_BF16 else array


def sparse_rows(csr: CSR, dtype: "pb.DataType" = pb.DATA_TYPE_F32) -> pb.SparseRows:
    """A SparseRows message; `dtype` is the wire type of the activations."""
    return pb.SparseRows(
        shape=csr.shape,
        indptr=_bytes(csr.indptr, np.dtype("<u4")),
        indices=_bytes(csr.indices, np.dtype("<u4")),
        value_dtype=dtype,
        values=_float_bytes(csr.data, dtype),
    )


def rows_to_csr(rows: pb.SparseRows) -> CSR:
    """The arrays of a SparseRows message, checked.

    Raises:
        CodecError: the message is not a CSR matrix of ascending indices.
    """
    shape = tuple(rows.shape)
    if len(shape) != 2 or min(shape) < 0 or max(shape) >= 2**32:
        raise CodecError("shape", f"expected [rows, d_sae], each below 2^32, got {list(shape)}")
    n_rows, d_sae = shape
    u32 = np.dtype("<u4")
    indptr_bytes = rows.indptr
    _check_bytes("indptr", len(indptr_bytes), (n_rows + 1,), u32)
    indptr = np.frombuffer(indptr_bytes, dtype=u32)
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise CodecError("indptr", "must start at 0 and never fall")
    nnz = int(indptr[-1])
    indices_bytes, values_bytes = rows.indices, rows.values
    _check_bytes("indices", len(indices_bytes), (nnz,), u32)
    indices = np.frombuffer(indices_bytes, dtype=u32)
    name = float_dtype_name(rows.value_dtype, field="value_dtype")
    wire = _WIRE[rows.value_dtype]
    _check_bytes("values", len(values_bytes), (nnz,), wire)
    values: Array = np.frombuffer(values_bytes, dtype=wire)
    if name == "bfloat16":
        values = _widen_bf16(values)
    if nnz:
        if int(indices.max()) >= d_sae:
            raise CodecError(
                "indices", f"feature {int(indices.max())} is outside the {d_sae} features"
            )
        falls = indices[1:] <= indices[:-1]
        # A fall is allowed only where a new row begins.
        starts = np.zeros(nnz + 1, dtype=bool)
        starts[indptr] = True
        if (falls & ~starts[1:nnz]).any():
            raise CodecError("indices", "must ascend strictly within each row")
    return CSR(indptr, indices, values, (n_rows, d_sae))


def _check_bytes(field: str, length: int, shape: tuple[int, ...], wire: np.dtype[Any]) -> None:
    if len(shape) > MAX_AXES:
        raise CodecError("shape", f"at most {MAX_AXES} axes, got {len(shape)}")
    if any(n < 0 for n in shape):
        raise CodecError("shape", f"axes must not be negative, got {list(shape)}")
    expected = math.prod(shape) * wire.itemsize  # Python integers: no overflow
    if length != expected:
        raise CodecError(
            field,
            f"{length} bytes, but shape {list(shape)} of {wire.itemsize} bytes needs {expected}",
        )
    # Beside an axis of 0 the others can be of any length, but not in an array.
    if math.prod(n or 1 for n in shape) * wire.itemsize >= 2**63:
        raise CodecError("shape", f"the axes {list(shape)} are too long")


def _bytes(array: Array, wire: np.dtype[Any]) -> bytes:
    return np.ascontiguousarray(array, dtype=wire).tobytes()


def _float_bytes(array: Array, code: "pb.DataType") -> bytes:
    name = float_dtype_name(code)
    if name == "bfloat16":
        return _bytes(_round_bf16(array), np.dtype("<u2"))
    return _bytes(array, _WIRE[code])


def _round_bf16(array: Array) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(bits.view("<f4")), np.uint64(0x7FC0), rounded).astype(np.uint16)


def _widen_bf16(bits: Array) -> npt.NDArray[np.float32]:
    wide: npt.NDArray[np.float32] = (bits.astype(np.uint32) << 16).view(np.float32)
    return wide


def _name(code: int) -> str:
    known = pb.DataType.DESCRIPTOR.values_by_number.get(code)
    return known.name.removeprefix("DATA_TYPE_") if known else f"the unknown value {code}"
