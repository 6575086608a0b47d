"""SAE folders read into memory of one's own, for a server that must not change under its callers.

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
from saekit_core.sae.layout import (
    CFG_FILE,
    FEATURE_ARRAYS_FILE,
    FEATURES_FILE,
    MAX_CFG_BYTES,
    WEIGHTS_FILE,
    check_finite,
    check_weights,
    convert,
    narrows,
    parse_config,
)
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
    """The content of an SAE folder, checked, in memory that nobody else writes to."""

    revision: str
    """First 12 hex digits of the hash of what was read; see `RevisionHash`."""
    cfg: SAEConfig
    tensors: Mapping[str, Tensor]
    """Weights in the dtype of the file, on the CPU; all finite."""
    features: FeaturesFile | None

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
        cfg, tensors = convert(self.cfg, self.tensors, device=device, dtype=dtype)
        if narrows(self.tensors, cfg.dtype):
            check_finite(tensors)
        return SAE(cfg, tensors).requires_grad_(False)


def read_sae_folder_owned(path: str | Path) -> OwnedFolder:
    """Read every file that determines an answer once, hash it, and check it.

    Raises:
        SAENotFoundError: there is no such folder.
        SAEFormatError: a file is missing, truncated, of the wrong type, contradicts another, holds
            NaN or infinite values, or changed while it was read; naming file and key.
    """
    reading = _Reading()
    revision = read_answer_files(path, reading.read)
    cfg = parse_config(reading.texts[CFG_FILE])
    tensors = check_weights(cfg, reading.arrays[WEIGHTS_FILE])
    check_finite(tensors)
    features = parse_features(
        reading.texts.get(FEATURES_FILE), reading.arrays.get(FEATURE_ARRAYS_FILE)
    )
    if features is not None:
        features.check(cfg.d_sae)
    return OwnedFolder(revision, cfg, tensors, features)


class _Reading:
    """The files of one folder as they are read."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}
        self.arrays: dict[str, dict[str, Tensor]] = {}

    def read(self, name: str, file: BinaryIO, length: int, revision: RevisionHash) -> None:
        if name in (WEIGHTS_FILE, FEATURE_ARRAYS_FILE):
            self.arrays[name] = _read_tensors(name, file, length, revision)
            return
        if name == CFG_FILE and length > MAX_CFG_BYTES:
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
