"""The revision of an SAE folder: a name for exactly what it answers."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from saekit_core.sae.errors import SAEFormatError, SAENotFoundError
from saekit_core.sae.layout import ANSWER_FILES, CFG_FILE, WEIGHTS_FILE

REVISION_DIGITS: Final = 12
_CHUNK_BYTES: Final = 1 << 20

Reader = Callable[[str, BinaryIO, int, "RevisionHash"], None]


class RevisionHash:
    """SHA-256 over the files of a folder.

    Per file, in the order of paths: the path relative to the folder (POSIX, UTF-8), one zero byte,
    the length as eight little-endian bytes, the content. The revision is the first 12 hex digits.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def begin(self, path: str, length: int) -> None:
        self._sha.update(path.encode() + b"\0" + length.to_bytes(8, "little"))

    def update(self, content: bytes | memoryview) -> None:
        self._sha.update(content)

    @property
    def revision(self) -> str:
        return self._sha.hexdigest()[:REVISION_DIGITS]


def folder_revision(path: str | Path) -> str:
    """First 12 hex digits of the SHA-256 over every file of a folder that determines an answer.

    These are ``cfg.json``, ``sae_weights.safetensors``, ``features.json`` and
    ``features.safetensors``, as far as they exist; `RevisionHash` says what is hashed.

    Raises:
        SAENotFoundError: no such folder.
        SAEFormatError: a file that every SAE has is missing, or a file changed while being read.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))

    def skim(name: str, file: BinaryIO, length: int, revision: RevisionHash) -> None:
        seen = 0
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            revision.update(buffer[:count])
            seen += count
        check_length(name, seen, length)

    return read_answer_files(path, skim)


def read_answer_files(path: str | Path, read: Reader) -> str:
    """Have `read` read each file that determines an answer, once; returns the revision.

    All files are opened before the first is read, relative to one directory descriptor, so that
    replacing the folder by a rename in the meantime cannot mix two revisions.
    """
    revision = RevisionHash()
    with _open_all(Path(path)) as files:
        for name, file in files:
            length = os.fstat(file.fileno()).st_size
            revision.begin(name, length)
            read(name, file, length, revision)
    return revision.revision


def check_length(name: str, seen: int, length: int) -> None:
    """Raises SAEFormatError unless as many bytes were read as the file had when it was opened."""
    if seen != length:
        raise SAEFormatError(f"{name}: changed while it was read, {seen} bytes instead of {length}")


@contextmanager
def _open_all(folder: Path) -> Iterator[list[tuple[str, BinaryIO]]]:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SAENotFoundError(f"{folder}: {error.strerror}") from None
    opened: list[tuple[str, BinaryIO]] = []
    try:
        for name in ANSWER_FILES:
            try:
                # Not blocking: somebody's named pipe must not hold the reader up.
                descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
            except FileNotFoundError:
                if name in (CFG_FILE, WEIGHTS_FILE):
                    raise SAEFormatError(f"{name}: missing from {folder}", field=name) from None
                continue
            except OSError as error:
                raise SAEFormatError(f"{name}: {error.strerror}", field=name) from None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise SAEFormatError(f"{name}: not a file", field=name)
            opened.append((name, os.fdopen(descriptor, "rb", buffering=0)))
        yield opened
    finally:
        for _, file in opened:
            file.close()
        os.close(directory)
