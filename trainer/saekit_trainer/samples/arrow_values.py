"""Values of Arrow columns as the trainer wants them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa


def values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Lists of numbers as arrays, anything else as Python has it."""
    nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    nested = nested or pa.types.is_fixed_size_list(column.type)
    if nested and pa.types.is_primitive(column.type.value_type):
        for scalar in column:
            inner = scalar.values
            yield None if inner is None else inner.to_numpy(zero_copy_only=False)
    else:
        for scalar in column:
            yield scalar.as_py()
