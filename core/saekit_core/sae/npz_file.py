"""Files written by ``numpy.savez``: zip archives of arrays. Object arrays, which are pickles, are
refused."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final

import numpy as np
import torch
from torch import Tensor

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.torch_file import ContentReader

_SUFFIX: Final = ".npy"
_MOST_COMPRESSION: Final = 20
"""Weights hardly shrink; a file that claims to grow more than this is made to fill the memory."""
_ALWAYS_READ: Final = 1 << 24
_CHUNK_BYTES: Final = 1 << 20


def read_npz_file(file: Path | Tensor, *, where: str) -> dict[str, Tensor]:
    """The arrays of a file, in memory of their own, as tensors of float16, float32 or float64.

    Args:
        file: a path, or the file's content (uint8).
        where: the file's name, for messages.

    Raises:
        SAEFormatError: truncated, of another kind, holding other than numbers, or far larger than
            its bytes; naming the array.
    """
    try:
        with _open(file) as opened, zipfile.ZipFile(opened) as archive:
            _check_sizes(archive, where)
            return {
                entry.filename.removesuffix(_SUFFIX): _array(archive, entry, where)
                for entry in archive.infolist()
            }
    except SAEFormatError:
        raise
    except OSError as error:
        raise SAEFormatError(f"{where}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise SAEFormatError(f"{where}: not a file of numpy.savez: {error}") from None


def _open(file: Path | Tensor) -> IO[bytes]:
    return file.open("rb") if isinstance(file, Path) else io.BufferedReader(ContentReader(file))


def _check_sizes(archive: zipfile.ZipFile, where: str) -> None:
    stored = sum(entry.compress_size for entry in archive.infolist())
    claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > max(_MOST_COMPRESSION * stored, _ALWAYS_READ):
        raise SAEFormatError(f"{where}: {claimed} bytes of arrays in {stored}: no weights are so")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> Tensor:
    key = entry.filename.removesuffix(_SUFFIX)
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise SAEFormatError(f"{where}: {key} has version {version} of the format", field=key)
        shape, columns_first, dtype = read_header(member)
        if dtype.kind != "f" or dtype.itemsize > 8:
            kind = "a pickle of objects" if dtype.hasobject else f"dtype {dtype}"
            raise SAEFormatError(
                f"{where}: {key} is {kind}, expected float16, float32 or float64", field=key
            )
        expected = math.prod(shape) * dtype.itemsize
        content = np.empty(expected if expected <= entry.file_size else 0, np.uint8)
        if _fill(member, content.data) != expected or member.read(1):
            raise SAEFormatError(
                f"{where}: {key} of shape {list(shape)} takes {expected} bytes, the file has "
                f"{entry.file_size} with the header",
                field=key,
            )
    array = content.view(dtype).reshape(shape, order="F" if columns_first else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))


def _fill(member: IO[bytes], view: memoryview) -> int:
    """Bytes read into `view`, which is full unless they ran out."""
    seen = 0
    while piece := member.read(min(_CHUNK_BYTES, len(view) - seen)):
        view[seen : seen + len(piece)] = piece
        seen += len(piece)
    return seen
