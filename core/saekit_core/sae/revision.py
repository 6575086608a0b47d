"""The revision of an SAE folder: a name for exactly what it answers."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from saekit_core.sae.errors import SAEFormatError, SAENotFoundError
from saekit_core.sae.formats import Found, find_sae, list_names, place_of
from saekit_core.sae.formats.reading import outside_facts
from saekit_core.sae.origin import Origin

REVISION_DIGITS: Final = 12
_CHUNK_BYTES: Final = 1 << 20
_FACTS_ENTRY: Final = "//"

Reader = Callable[[str, BinaryIO, int, "RevisionHash"], None]


class RevisionHash:
    """SHA-256 over the files of a folder.

    Per file, in the order of paths: the path relative to the folder (POSIX, UTF-8), one zero byte,
    the length as eight little-endian bytes, the content. What determines an answer besides the
    files (a hook point in the folder's name, a factor that a release states) follows as one more
    entry, of canonical JSON, whose path no file has. The revision is the first 12 hex digits.
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


def folder_revision(path: str | Path, *, origin: Origin | None = None) -> str:
    """First 12 hex digits of the SHA-256 over every file of an SAE that determines an answer.

    For a SAELens folder these are ``cfg.json``, ``sae_weights.safetensors``, ``features.json`` and
    ``features.safetensors``, as far as they exist; `RevisionHash` says what is hashed.

    Args:
        path: a folder, or a file that is an SAE of its own.
        origin: what is known of it besides its files.

    Raises:
        SAENotFoundError: there is no such folder or file.
        SAEFormatError: a file that every SAE has is missing, or a file changed while being read.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))

    def skim(name: str, file: BinaryIO, length: int, revision: RevisionHash) -> None:
        seen = 0
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            revision.update(buffer[:count])
            seen += count
        check_length(name, seen, length)

    return read_answer_files(path, skim, origin=origin)[0]


def read_answer_files(
    path: str | Path, read: Reader, *, origin: Origin | None = None
) -> tuple[str, Found]:
    """Have `read` read each file that determines an answer, once; returns the revision.

    All files are opened before the first is read, relative to one directory descriptor, so that
    replacing the folder by a rename in the meantime cannot mix two revisions.
    """
    revision = RevisionHash()
    place = place_of(Path(path), origin)
    with _opened(place.folder) as directory, ExitStack() as closing:
        found = find_sae(place, list_names(directory))
        files = [
            (name, closing.enter_context(_open_file(name, directory, place.folder)))
            for name in found.names
        ]
        for name, file in files:
            length = os.fstat(file.fileno()).st_size
            revision.begin(name, length)
            read(name, file, length, revision)
    facts = outside_facts(found)
    if facts:
        revision.begin(_FACTS_ENTRY, len(facts))
        revision.update(facts)
    return revision.revision, found


def check_length(name: str, seen: int, length: int) -> None:
    """Raises SAEFormatError unless as many bytes were read as the file had when it was opened."""
    if seen != length:
        raise SAEFormatError(f"{name}: changed while it was read, {seen} bytes instead of {length}")


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SAENotFoundError(f"{folder}: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_file(name: str, directory: int, folder: Path) -> BinaryIO:
    try:
        # Not blocking: somebody's named pipe must not hold the reader up.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        raise SAEFormatError(f"{name}: missing from {folder}", field=name) from None
    except OSError as error:
        raise SAEFormatError(f"{name}: {error.strerror}", field=name) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SAEFormatError(f"{name}: not a file", field=name)
    return os.fdopen(descriptor, "rb", buffering=0)
