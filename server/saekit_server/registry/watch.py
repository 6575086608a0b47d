"""Follows the SAE root: what appears is loaded, what changes reloaded, what goes unloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from saekit_core.sae import SAEError, check_sae_id
from saekit_core.sae.formats import list_names, members
from saekit_server.errors import DomainError, from_core, precondition
from saekit_server.registry.registry import Registry
from saekit_server.registry.sources import Source

_log = logging.getLogger(__name__)

MISSES_TO_UNLOAD: Final = 2
"""Polls in a row that must miss a folder: one may fall between the two renames of a replacement."""

Signature = tuple[tuple[str, int, int, int], ...]
"""(name, inode, length, time of change in ns) of the files that determine an answer."""


@dataclass(frozen=True)
class PollReport:
    """What one look at the folder led to, by sae_id."""

    loaded: tuple[str, ...] = ()
    """Loaded or replaced."""
    unloaded: tuple[str, ...] = ()
    failed: dict[str, DomainError] = field(default_factory=dict)


@dataclass
class _Followed:
    """A folder that was there at the last look."""

    signature: Signature
    serves: bool = False
    """Whether it is what its sae_id stands for, because of us."""
    misses: int = 0


class FolderWatcher:
    """Makes a registry follow the folders below its SAE root.

    A folder whose files have the names of a format is an SAE, and so is a file that has such a
    name; the path relative to the root is the sae_id. Names that begin with a dot are not looked
    at. A name that something else was loaded under is left alone, and so is a pinned SAE whose
    folder goes.

    Raises:
        DomainError: FAILED_PRECONDITION, for a registry without an SAE root.
    """

    def __init__(self, registry: Registry) -> None:
        if registry.sae_root is None:
            raise precondition("there is no SAE root to watch", field="sae_dir")
        self._registry = registry
        self._root = registry.sae_root
        self._followed: dict[str, _Followed] = {}

    def poll_once(self) -> PollReport:
        """Look once, and load what is new or changed. A bad folder is reported once, until it
        changes; what it held before still serves."""
        walk = _Walk(self._root)
        found = dict(walk)
        loaded: list[str] = []
        failed: dict[str, DomainError] = {}
        for sae_id, signature in sorted(found.items()):
            followed = self._followed.setdefault(sae_id, _Followed(()))
            followed.misses = 0
            if followed.signature == signature:
                continue
            followed.signature = signature
            try:
                if self._load(sae_id):
                    loaded.append(sae_id)
                followed.serves = True
            except DomainError as error:
                _log.warning("%s: %s", sae_id, error.message)
                failed[sae_id] = error
        gone = [i for i in self._followed if i not in found and not walk.hides(i)]
        return PollReport(tuple(loaded), tuple(i for i in gone if self._miss(i)), failed)

    def _load(self, sae_id: str) -> bool:
        """Whether the registry changed."""
        place = Source(f"file:{sae_id}", sae_id, self._root / sae_id)
        try:
            check_sae_id(sae_id)
        except SAEError as error:
            raise self._registry.report_failure(place, from_core(error)) from error
        taken = self._source(sae_id)
        if taken is not None and taken != place.spec:
            problem = precondition(f"{sae_id} is the name of an SAE loaded from {taken}")
            raise self._registry.report_failure(place, problem)
        return self._registry.load(place.spec, sae_id=sae_id, replace=True).changed

    def _miss(self, sae_id: str) -> bool:
        """Count that a folder was not there; whether its SAE was unloaded."""
        followed = self._followed[sae_id]
        followed.misses += 1
        if followed.misses < MISSES_TO_UNLOAD:
            return False
        del self._followed[sae_id]
        if not followed.serves or self._source(sae_id) != f"file:{sae_id}":
            return False
        try:
            info = self._registry.describe(sae_id)
            if info.pinned:
                _log.warning("%s: its folder is gone; it is pinned and stays", sae_id)
                return False
            self._registry.unload(info.name)
        except DomainError:
            return False  # somebody was quicker
        return True

    def _source(self, sae_id: str) -> str | None:
        """What the current revision of that name was loaded from; None if there is none."""
        try:
            return self._registry.describe(sae_id).source
        except DomainError:
            return None


class _Walk:
    """The SAE folders below a root: iterates over (sae_id, signature)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = root.resolve()
        self._unreadable: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, Signature]]:
        return self._below(self._root, "", frozenset())

    def hides(self, sae_id: str) -> bool:
        """Whether it may be there, in a folder that could not be read."""
        return any(f"{sae_id}/".startswith(prefix) for prefix in self._unreadable)

    def _below(
        self, folder: Path, prefix: str, above: frozenset[Path]
    ) -> Iterator[tuple[str, Signature]]:
        """Args: the folder; its path below the root, ending in "/"; what links may not lead to."""
        place = folder.resolve()
        if place in above or not place.is_relative_to(self._top):
            return
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            found = {
                member: _signature(folder, files)
                for member, files in members(list_names(folder)).items()
                if member is None or not member.startswith(".")
            }
        except FileNotFoundError as error:
            # A folder that goes while one looks is gone; a root that is gone is a disk that is.
            if not prefix:
                self._unreadable.append(prefix)
                _log.warning("%s: %s; nothing is unloaded for that", folder, error.strerror)
            return
        except OSError as error:
            self._unreadable.append(prefix)
            _log.warning("%s: %s; nothing is unloaded for that", folder, error.strerror)
            return
        for member, signature in found.items():
            sae_id = prefix.removesuffix("/") if member is None else f"{prefix}{member}"
            if sae_id:
                yield sae_id, signature
        for name in names:
            yield from self._below(folder / name, f"{prefix}{name}/", above | {place})


def _signature(folder: Path, names: tuple[str, ...]) -> Signature:
    stats = []
    for name in names:
        try:
            stat = (folder / name).stat()
        except FileNotFoundError:
            continue
        stats.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(stats)
