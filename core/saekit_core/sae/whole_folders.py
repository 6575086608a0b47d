"""Folders that appear at once and complete, or not at all, whenever the process ends."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_NEW: Final = ".new"
_OLD: Final = ".old"
_SWAP_ATTEMPTS: Final = 100


@contextmanager
def whole_folder(target: Path, *, own_files: Set[str] | None = None) -> Iterator[Path]:
    """A fresh folder to write files into, which becomes `target` at the end of the block.

    It is written beside it, synced and renamed; a folder in the way is first renamed to a dot-name,
    and deleted in the end. After an exception nothing has changed.

    Args:
        target: absolute; its parent is made if need be.
        own_files: names that may not survive from a folder in the way; files of other names move to
            the new one. None: nothing survives.

    Raises:
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{secrets.token_hex(4)}{_NEW}"
    aside.mkdir()
    try:
        yield aside
        for file in (*aside.iterdir(), aside):
            _sync(file)
        _swap_in(aside, target, own_files)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _sync(target.parent)


def mend(parent: Path) -> None:
    """Tidy up what `whole_folder` left in `parent` where a process was killed: a folder that had
    been renamed to make room comes back, what was not finished is deleted.

    Nobody else may be writing there.
    """
    for aside in parent.glob(f".*.????????{_NEW}"):
        shutil.rmtree(aside, ignore_errors=True)
    for old in parent.glob(f".*.????????{_OLD}"):
        target = parent / old.name[1 : -len(".????????") - len(_OLD)]
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)


def _swap_in(aside: Path, target: Path, own_files: Set[str] | None) -> None:
    """Rename `aside` to `target`, after renaming what is in the way to a dot-name."""
    replaced = []
    for _ in range(_SWAP_ATTEMPTS):
        try:
            os.rename(aside, target)
            break
        except OSError as error:
            # Another writer may fill the place again before we get to it, hence the loop.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        old = target.parent / f".{target.name}.{secrets.token_hex(4)}{_OLD}"
        try:
            os.rename(target, old)
        except FileNotFoundError:
            continue
        replaced.append(old)
    else:
        raise FileExistsError(f"{target}: others keep writing to it")
    for old in replaced:
        for file in old.iterdir():
            own = own_files is None or file.name in own_files
            if not own and not (target / file.name).exists():
                os.rename(file, target / file.name)
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
