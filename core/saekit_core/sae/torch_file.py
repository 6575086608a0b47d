"""Files written by ``torch.save``, read as tensors and plain values, never as code.

Such a file is an uncompressed zip archive of one pickle and the data of its tensors. The pickle is
read by ``torch.load(weights_only=True)`` alone, which builds tensors, containers and numbers, and
refuses whatever else a pickle may ask for.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor

from saekit_core.sae.errors import SAEFormatError

_CODE: Final = re.compile(r"GLOBAL ([\w.]+)|type ([\w.]+)")


def read_torch_file(file: Path | Tensor, *, where: str) -> dict[str, Any]:
    """The dictionary that a file holds: tensors on the CPU, and plain values.

    Args:
        file: a path, whose tensors are mapped privately; or the file's content (uint8).
        where: the file's name, for messages.

    Raises:
        SAEFormatError: truncated, of another kind, not a dictionary, or it asks for more than
            tensors and plain values.
    """
    try:
        with _open(file) as opened:
            _check_archive(opened, where)
        if isinstance(file, Path):
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        else:
            with _open(file) as opened:
                loaded = torch.load(opened, map_location="cpu", weights_only=True)
    except SAEFormatError:
        raise
    except OSError as error:
        raise SAEFormatError(f"{where}: {error.strerror or error}") from None
    except Exception as error:  # of a broken pickle anything may come
        raise SAEFormatError(f"{where}: {_reason(error)}") from None
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise SAEFormatError(
            f"{where}: holds {type(loaded).__name__}, expected a dictionary of tensors"
        )
    return {key: _plain(key, value, where) for key, value in loaded.items()}


def _plain(key: str, value: Any, where: str) -> Any:
    if not isinstance(value, Tensor):
        return value
    tensor = value.detach()
    whole = tensor.layout == torch.strided and tensor.device.type == "cpu"
    # A stride of 0 would make a huge tensor of a small file.
    if not whole or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise SAEFormatError(f"{where}: {key} is no tensor whose values are all stored", field=key)
    return tensor


def _open(file: Path | Tensor) -> IO[bytes]:
    return file.open("rb") if isinstance(file, Path) else io.BufferedReader(ContentReader(file))


def _check_archive(file: IO[bytes], where: str) -> None:
    """Refuse what is no archive as torch writes them, before anything in it is read."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise SAEFormatError(
            f"{where}: not a file of torch.save (torch 1.6 or later): {error}"
        ) from None
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise SAEFormatError(f"{where}: {entry.filename} is compressed, torch stores it plain")


def _reason(error: Exception) -> str:
    text = str(error)
    asked = _CODE.search(text)
    if "weights_only" in text or "Weights only" in text or "Unsupported" in text:
        wanted = next((name for name in asked.groups() if name), "more") if asked else "more"
        return (
            f"its pickle asks for {wanted}; only tensors and plain values are read, nothing that "
            "could run code"
        )
    return f"broken: {text.strip().partition(chr(10))[0][:200] or type(error).__name__}"


class ContentReader(io.RawIOBase):
    """The content of a file (a uint8 tensor) as something to read and seek in, without a copy."""

    def __init__(self, content: Tensor) -> None:
        super().__init__()
        self._view = memoryview(content.numpy())  # type: ignore[arg-type]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        piece = self._view[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)
