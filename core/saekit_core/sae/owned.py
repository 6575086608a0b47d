"""SAEs read into memory of one's own, for a server that must not change under its callers.

A mapped file shows what others write into it, and truncating it kills the process; memory of one's
own does neither. Each file is read once, and hashed as it passes, so that the revision is that of
the bytes that are served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.features_file import FeaturesFile, parse_features
from saekit_core.sae.formats.files import TENSOR_SUFFIXES, OwnedFiles
from saekit_core.sae.formats.reading import Content, read_content
from saekit_core.sae.layout import FEATURE_ARRAYS_FILE, FEATURES_FILE, MAX_CFG_BYTES
from saekit_core.sae.origin import Origin
from saekit_core.sae.revision import RevisionHash, check_length, read_answer_files
from saekit_core.sae.sae import SAE
from saekit_core.sae.safetensors_file import (
    LENGTH_BYTES,
    header_length,
    parse_header,
    view_tensors,
)

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, eq=False)
class OwnedFolder:
    """The content of an SAE's files, checked, in memory that nobody else writes to."""

    revision: str
    """First 12 hex digits of the hash of what was read; see `RevisionHash`."""
    content: Content
    """Weights in the dtype of the file, on the CPU; all finite."""
    features: FeaturesFile | None

    @property
    def cfg(self) -> SAEConfig:
        return self.content.cfg

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.content.tensors

    @property
    def nbytes(self) -> int:
        """Bytes of the weights as stored."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def build(
        self, device: str | torch.device = "cpu", dtype: str | torch.dtype | None = None
    ) -> SAE:
        """An SAE of this content, without gradients.

        On the CPU and in the file's dtype it shares this folder's memory.

        Raises:
            SAEFormatError: a weight is too large for `dtype`.
        """
        cfg, tensors = self.content.built(device, dtype, finite=True)
        return SAE(cfg, tensors).requires_grad_(False)


def read_sae_folder_owned(path: str | Path, *, origin: Origin | None = None) -> OwnedFolder:
    """Read every file that determines an answer once, hash it, and check it.

    Args:
        path: a folder, or a file that is an SAE of its own, of any format.
        origin: what is known of it besides its files.

    Raises:
        SAENotFoundError: there is no such folder or file.
        SAEFormatError: a file is missing, truncated, of the wrong type, contradicts another, holds
            NaN or infinite values, or changed while it was read; naming file and key.
    """
    reading = _Reading()
    revision, found = read_answer_files(path, reading.read, origin=origin)
    files = OwnedFiles(reading.texts, {**reading.arrays, **reading.whole}, found.place.file)
    content = read_content(found, files)
    features = parse_features(
        reading.texts.get(FEATURES_FILE), reading.arrays.get(FEATURE_ARRAYS_FILE)
    )
    if features is not None:
        features.check(content.cfg.d_sae)
    return OwnedFolder(revision, content, features)


class _Reading:
    """The files of one SAE as they are read."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}
        self.arrays: dict[str, dict[str, Tensor]] = {}
        self.whole: dict[str, Tensor] = {}
        """Files of tensors that are decoded later."""

    def read(self, name: str, file: BinaryIO, length: int, revision: RevisionHash) -> None:
        if name.endswith(".safetensors"):
            self.arrays[name] = _read_tensors(name, file, length, revision)
        elif name.endswith(TENSOR_SUFFIXES):
            self.whole[name] = _read_exactly(name, file, length, revision)
        else:
            if name != FEATURES_FILE and length > MAX_CFG_BYTES:
                raise SAEFormatError(f"{name}: {length} bytes, at most {MAX_CFG_BYTES} are read")
            self.texts[name] = bytes(_read_exactly(name, file, length, revision).numpy())


def _read_tensors(
    name: str, file: BinaryIO, length: int, revision: RevisionHash
) -> dict[str, Tensor]:
    prefix = bytes(_read_exactly(name, file, min(LENGTH_BYTES, length), revision).numpy())
    header_bytes = header_length(prefix, file_bytes=length, where=name)
    header = bytes(_read_exactly(name, file, header_bytes, revision).numpy())
    data_bytes = length - LENGTH_BYTES - header_bytes
    entries = parse_header(header, data_bytes=data_bytes, where=name)
    data = _read_exactly(name, file, data_bytes, revision)
    if file.read(1):
        raise SAEFormatError(f"{name}: grew while it was read")
    return view_tensors(data, entries)


def _read_exactly(name: str, file: BinaryIO, count: int, revision: RevisionHash) -> Tensor:
    """`count` bytes into fresh memory (aligned as torch aligns), hashed while still in cache."""
    data = torch.empty(count, dtype=torch.uint8)
    view = data.numpy().data
    seen = 0
    while seen < count:
        got = file.readinto(view[seen : seen + _CHUNK_BYTES])  # type: ignore[attr-defined]
        if not got:
            break
        revision.update(view[seen : seen + got])
        seen += got
    check_length(name, seen, count)
    return data
