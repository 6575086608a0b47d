"""Conversions between wire messages and numpy, shared by the server and the client."""

from saekit.codec.errors import CodecError
from saekit.codec.frames import PART_BYTES, FrameJoiner, split_message
from saekit.codec.tensors import (
    CSR,
    bits_to_tensor,
    float_dtype_name,
    numpy_to_tensor,
    rows_to_csr,
    sparse_rows,
    tensor_to_numpy,
)

__all__ = [
    "CSR",
    "PART_BYTES",
    "CodecError",
    "FrameJoiner",
    "bits_to_tensor",
    "float_dtype_name",
    "numpy_to_tensor",
    "rows_to_csr",
    "sparse_rows",
    "split_message",
    "tensor_to_numpy",
]
