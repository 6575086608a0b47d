"""Makes a registry converge to its manifest, now and whenever the file changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from saekit_server.errors import DomainError
from saekit_server.registry.manifest_file import ManifestEntry, ManifestFile, read_manifest
from saekit_server.registry.registry import Registry
from saekit_server.registry.sources import Source
from saekit_server.registry.watch import PollReport

_log = logging.getLogger(__name__)

MAX_RETRY_S: Final = 60.0
"""Longest time between two attempts at an entry that failed; it doubles from 1 s."""


@dataclass
class _Applied:
    """What became of one entry."""

    entry: ManifestEntry
    revisions: list[str] = field(default_factory=list)
    """That were loaded for it, oldest first."""
    attempts: int = 0
    """That failed since it last succeeded."""
    retry_at: float | None = None
    """Seconds of the clock; None: nothing is to be done."""


class Manifest:
    """A registry and the manifest that it follows.

    The manifest's word counts: an SAE that it names replaces another of that name. An SAE that it
    names no longer is unloaded, if it was loaded for the manifest. An entry that fails leaves what
    served before, does not stop the others, and is tried again; a file that is broken or gone
    changes nothing.
    """

    def __init__(
        self, registry: Registry, path: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._path = path
        self._clock = clock
        self._seen: tuple[int, int, int] | Literal["never"] | None = "never"
        self._applied: dict[str, _Applied] = {}

    def poll_once(self) -> PollReport:
        """Read the file if it has changed, and do what is to be done.

        Returns:
            What was done; ``failed`` has the entries that could not be carried out, and under the
            file's own name why the file could not be read.
        """
        failed: dict[str, DomainError] = {}
        unloaded: tuple[str, ...] = ()
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            try:
                content = read_manifest(self._path)
            except DomainError as error:
                _log.error("%s; the last good manifest stays in force", error.message)
                failed[self._path.name] = error
            else:
                failed.update(content.broken)
                self._announce(content)
                unloaded = self._adopt(content)
        loaded = [sae_id for sae_id in self._due() if self._apply(sae_id, failed)]
        return PollReport(tuple(loaded), unloaded, failed)

    def _announce(self, content: ManifestFile) -> None:
        for name, error in content.broken.items():
            _log.error("%s: %s", name, error)
            place = Source(f"manifest {self._path.name}", name, self._path)
            self._registry.report_failure(place, error)

    def _adopt(self, content: ManifestFile) -> tuple[str, ...]:
        """Take over the entries that changed, and unload what is named no longer."""
        now = self._clock()
        for sae_id, entry in content.entries.items():
            applied = self._applied.get(sae_id)
            if applied is None:
                self._applied[sae_id] = _Applied(entry, retry_at=now)
            elif applied.entry != entry:
                applied.entry, applied.attempts, applied.retry_at = entry, 0, now
        gone = self._applied.keys() - content.entries.keys() - content.broken.keys()
        return tuple(sae_id for sae_id in sorted(gone) if self._drop(sae_id))

    def _due(self) -> list[str]:
        now = self._clock()
        return [
            sae_id
            for sae_id, applied in self._applied.items()
            if applied.retry_at is not None and applied.retry_at <= now
        ]

    def _apply(self, sae_id: str, failed: dict[str, DomainError]) -> bool:
        """Load one entry; whether the registry changed."""
        applied = self._applied[sae_id]
        entry = applied.entry
        try:
            result = self._registry.load(
                entry.spec,
                sae_id=sae_id,
                replace=True,
                expected_revision=entry.revision,
                trusted=True,
                marks=entry.marks,
            )
            info = result.loaded.info
            if result.changed and not entry.preload:
                self._registry.park(info.name)
        except DomainError as error:
            _log.warning("manifest entry %s: %s", sae_id, error.message)
            failed[sae_id] = error
            applied.retry_at = self._clock() + min(MAX_RETRY_S, 2.0**applied.attempts)
            applied.attempts += 1
            return False
        applied.attempts, applied.retry_at = 0, None
        if info.revision not in applied.revisions:
            applied.revisions.append(info.revision)
        return result.changed

    def _drop(self, sae_id: str) -> bool:
        """Unload all that was loaded for an entry; whether anything was."""
        dropped = False
        for revision in self._applied.pop(sae_id).revisions:
            try:
                self._registry.unload(f"{sae_id}@{revision}")
                dropped = True
            except DomainError:
                continue  # replaced or unloaded by hand
        return dropped

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
