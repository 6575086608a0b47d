"""Safetensors files, read without trusting what they say of themselves.

The format (https://huggingface.co/docs/safetensors): u64 little-endian header length, a JSON header
``{name: {dtype, shape, data_offsets}}``, then the tensors, which fill the rest without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from saekit_core.sae.errors import SAEFormatError

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 1 << 20
FLOATS: Final = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in the data that follows the header, in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def header_length(prefix: bytes, *, file_bytes: int, where: str) -> int:
    """Length of the JSON header, from the file's first eight bytes.

    Raises:
        SAEFormatError: the file is too short for what it announces, or announces too much.
    """
    if len(prefix) < LENGTH_BYTES:
        raise SAEFormatError(f"{where}: {file_bytes} bytes are no safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES):
        raise SAEFormatError(
            f"{where}: header of {length} bytes announced, the file has {file_bytes} bytes and "
            f"a header may have {MAX_HEADER_BYTES}"
        )
    return length


def parse_header(
    header: bytes, *, data_bytes: int, where: str, dtypes: Mapping[str, torch.dtype] = FLOATS
) -> dict[str, TensorEntry]:
    """The tensors that a header describes, held against the data there is.

    Args:
        header: the JSON header.
        data_bytes: bytes that follow it in the file.
        where: the file's name, for messages.
        dtypes: those that are expected, by the format's names.

    Raises:
        SAEFormatError: naming the file and the tensor.
    """
    try:
        values = json.loads(header, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise SAEFormatError(f"{where}: the header is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise SAEFormatError(f"{where}: the header is no JSON object")
    values.pop("__metadata__", None)
    entries = {name: _entry(name, value, where, dtypes) for name, value in values.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position or entry.stop > data_bytes:
            raise SAEFormatError(
                f"{where}: {name} is said to lie at bytes {entry.start}..{entry.stop} of "
                f"{data_bytes}, expected it to begin at {position}",
                field=name,
            )
        position = entry.stop
    if position != data_bytes:
        raise SAEFormatError(f"{where}: {data_bytes - position} bytes belong to no tensor")
    return entries


def view_tensors(data: Tensor, entries: Mapping[str, TensorEntry]) -> dict[str, Tensor]:
    """Tensors as views of a file's data (a uint8 tensor); copied only where misaligned."""
    views = {}
    for name, entry in entries.items():
        piece = data[entry.start : entry.stop]
        if piece.data_ptr() % entry.dtype.itemsize:
            piece = piece.clone()
        views[name] = piece.view(entry.dtype).view(entry.shape)
    return views


def read_mapped(path: Path, *, dtypes: Mapping[str, torch.dtype] = FLOATS) -> dict[str, Tensor]:
    """Tensors of a file, mapped privately: writes to them never reach the file.

    Args:
        dtypes: those that are expected, by the format's names.

    Raises:
        SAEFormatError: the file is missing, truncated, or lies about its content.
    """
    where = path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file.read(LENGTH_BYTES), file_bytes=size, where=where)
            header = file.read(length)
    except OSError as error:
        raise SAEFormatError(f"{where}: {error.strerror}") from None
    start = LENGTH_BYTES + length
    entries = parse_header(header, data_bytes=size - start, where=where, dtypes=dtypes)
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return view_tensors(whole[start:], entries)


def _entry(name: str, value: Any, where: str, dtypes: Mapping[str, torch.dtype]) -> TensorEntry:
    if not isinstance(value, dict):
        raise SAEFormatError(f"{where}: {name} is described by {value!r:.80}", field=name)
    dtype = dtypes.get(str(value.get("dtype")))
    if dtype is None:
        raise SAEFormatError(
            f"{where}: {name} has dtype {value.get('dtype')!r}, expected one of "
            f"{', '.join(dtypes)}",
            field=name,
        )
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise SAEFormatError(
            f"{where}: {name} has shape {shape!r:.80} and data_offsets {offsets!r:.80}", field=name
        )
    expected = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != expected:
        raise SAEFormatError(
            f"{where}: {name} of shape {shape} takes {expected} bytes, but "
            f"{offsets[1] - offsets[0]} are given",
            field=name,
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice")
    return keys
