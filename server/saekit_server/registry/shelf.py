"""What is registered now, and the changes of it: each swaps one reference and is told at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from saekit_server.errors import DomainError, precondition
from saekit_server.registry.events import EventHub, EventKind, RegistryEvent, Subscription
from saekit_server.registry.loaded import Entry, LoadedSAE, SAEInfo
from saekit_server.registry.marks import carried_over
from saekit_server.registry.memory import Memory
from saekit_server.registry.snapshot import Snapshot, split_name

Outcome = Literal["loaded", "replaced", "unchanged", "failed"]


@dataclass(frozen=True)
class LoadResult:
    """What serves after a load."""

    loaded: LoadedSAE
    replaced_revision: str
    """Revision that it took the place of; empty if none."""
    changed: bool
    """False where exactly this revision had this name already."""


@dataclass(frozen=True)
class RegistryStats:
    """Figures for metrics."""

    n_saes: int
    """Revisions registered, wherever their weights are."""
    resident_bytes: int
    """Memory of the weights that are on the device."""
    evictions: int
    """SAEs moved off the device for want of memory, since the start."""
    loads: Mapping[Outcome, int]
    """Loads by outcome, since the start."""


class Shelf:
    """The entries, changed by one thread at a time and read without a lock.

    Attributes:
        snapshot: what is registered now. Whoever reads it once has a consistent view.
        memory: which entries go when there is too little memory.
    """

    def __init__(self, memory: Memory) -> None:
        self.snapshot = Snapshot()
        self.memory = memory
        self._lock = threading.Lock()
        self._events = EventHub()
        self._loads: Counter[Outcome] = Counter()

    def subscribe(self, prefix: str, notify: Callable[[], None] | None) -> Subscription:
        """What is there now, then every change."""
        with self._lock:
            present = [entry.info for entry in self.snapshot]
            return self._events.subscribe(prefix, present, notify)

    def stats(self) -> RegistryStats:
        """Figures for metrics."""
        with self._lock:
            entries, loads = tuple(self.snapshot), dict(self._loads)
        resident = sum(e.info.nbytes for e in entries if isinstance(e, LoadedSAE))
        return RegistryStats(len(entries), resident, self.memory.evictions, loads)

    def serve(self, loaded: LoadedSAE) -> LoadResult:
        """Make an SAE the current one of its name."""
        info = loaded.info
        with self._lock:
            before = self.snapshot.current.get(info.sae_id)
            self.snapshot = self.snapshot.with_current(loaded)
            if before is not None and before.info.revision == info.revision:
                self._loads["unchanged"] += 1  # it was parked
                return LoadResult(loaded, "", False)
            outcome: Outcome = "loaded" if before is None else "replaced"
            kind = EventKind.LOADED if before is None else EventKind.REPLACED
            self._loads[outcome] += 1
            self._events.publish(RegistryEvent.of(kind, info))
        return LoadResult(loaded, "" if before is None else before.info.revision, True)

    def remark(self, serving: LoadedSAE, marks: SAEInfo) -> LoadResult:
        """Give an SAE that serves other marks, where they differ."""
        with self._lock:
            self._loads["unchanged"] += 1
            info = carried_over(marks, serving.info)
            if info is serving.info:
                return LoadResult(serving, "", False)
            new = serving.with_info(info)
            return LoadResult(new if self._exchange(serving, new) else serving, "", False)

    def make_room(self, newcomer: SAEInfo, replaced: Entry | None) -> None:
        """Park what has to go for `newcomer`; raises RESOURCE_EXHAUSTED if that is too little."""
        with self._lock:
            for victim in self.memory.victims(self.snapshot, newcomer, replaced):
                self._exchange(victim, self.memory.parked(victim))

    def park(self, name: str) -> None:
        """Move an SAE out of the device's memory."""
        with self._lock:
            entry = self.snapshot.find(name)
            if isinstance(entry, LoadedSAE):
                self._exchange(entry, self.memory.parked(entry))

    def unpark(self, back: LoadedSAE) -> LoadedSAE:
        """Put an SAE back where it is parked.

        Returns:
            What serves now, under the marks that it has by now.

        Raises:
            DomainError: FAILED_PRECONDITION; it was unloaded meanwhile.
        """
        with self._lock:
            for entry in self.snapshot.of(back.sae_id):
                if entry.info.revision != back.revision:
                    continue
                if isinstance(entry, LoadedSAE):
                    return entry  # a load was quicker
                loaded = back.with_info(replace(entry.info, device=back.info.device))
                self._exchange(entry, loaded)
                return loaded
        raise precondition(f"{back.info.name} was unloaded while it was brought back")

    def remove(self, name: str) -> tuple[SAEInfo, ...]:
        """Unload all revisions of a sae_id, or one revision; returns what was unloaded."""
        with self._lock:
            sae_id, revision = split_name(name)
            entries = self.snapshot.of(sae_id)
            if revision is not None or not entries:
                entries = (self.snapshot.find(name),)
            for entry in entries:
                self.snapshot = self.snapshot.without(entry)
                self._events.publish(RegistryEvent.of(EventKind.UNLOADED, entry.info))
        return tuple(entry.info for entry in entries)

    def fail(self, sae_id: str, source: str, error: DomainError) -> None:
        """Tell the watchers that a load failed."""
        with self._lock:
            self._loads["failed"] += 1
            self._events.publish(RegistryEvent(EventKind.FAILED, sae_id, source, error=error))

    def close(self) -> None:
        """End all subscriptions."""
        self._events.close()

    def _exchange(self, old: Entry, new: Entry) -> bool:
        changed = self.snapshot.exchange(old, new)
        if changed is not None:
            self.snapshot = changed
        return changed is not None
