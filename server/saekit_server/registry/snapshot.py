"""What is loaded at one moment: an index that never changes, so that reading it takes no lock."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from saekit_server.errors import not_found, precondition
from saekit_server.registry.loaded import Entry


def split_name(name: str) -> tuple[str, str | None]:
    """The sae_id and the revision of ``sae_id`` or ``sae_id@revision``."""
    sae_id, at, revision = name.partition("@")
    return sae_id, revision if at else None


@dataclass(frozen=True)
class Snapshot:
    """The entries by sae_id.

    Every sae_id has its current revision, unless that was unloaded and pins keep older ones.
    """

    current: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    kept: Mapping[str, tuple[Entry, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Revisions that a pin kept when they were replaced, oldest first; no empty tuples."""

    def __iter__(self) -> Iterator[Entry]:
        """Ordered by sae_id, then revision."""
        entries = [*self.current.values(), *(e for kept in self.kept.values() for e in kept)]
        return iter(sorted(entries, key=lambda entry: (entry.info.sae_id, entry.info.revision)))

    def of(self, sae_id: str) -> tuple[Entry, ...]:
        """All revisions of an sae_id, the current one last; empty if there is none."""
        current = self.current.get(sae_id)
        return (*self.kept.get(sae_id, ()), *(() if current is None else (current,)))

    def find(self, name: str) -> Entry:
        """The entry of ``sae_id`` (its current revision) or ``sae_id@revision``.

        Raises:
            DomainError: NOT_FOUND, with near names; FAILED_PRECONDITION for a revision that is not
                loaded while another is.
        """
        entry = self.current.get(name)
        return entry if entry is not None else self._search(name)

    def _search(self, name: str) -> Entry:
        sae_id, revision = split_name(name)
        entries = self.of(sae_id)
        if not entries:
            raise not_found(f"no SAE {sae_id!r:.120} is loaded{self._hint(sae_id)}")
        loaded = ", ".join(entry.info.revision for entry in entries)
        if revision is None:
            raise precondition(
                f"{sae_id} was unloaded but for the pinned {loaded}; ask for {sae_id}@REVISION"
            )
        for entry in entries:
            if entry.info.revision == revision:
                return entry
        raise precondition(f"{sae_id}@{revision:.40} is not loaded, but {loaded} is")

    def _hint(self, sae_id: str) -> str:
        names = sorted({*self.current, *self.kept})
        near = difflib.get_close_matches(sae_id[:256], names, n=3, cutoff=0.5)
        near = near or [name for name in names if name.rpartition("/")[2] == sae_id][:3]
        if near:
            return f"; near: {', '.join(near)}"
        return "" if names else "; none is"

    def with_current(self, entry: Entry) -> Snapshot:
        """`entry` as the current revision of its sae_id; the one before is kept if pinned."""
        sae_id = entry.info.sae_id
        before = self.current.get(sae_id)
        kept = [e for e in self.kept.get(sae_id, ()) if e.info.revision != entry.info.revision]
        if (
            before is not None
            and before.info.pinned
            and before.info.revision != entry.info.revision
        ):
            kept.append(before)
        current = MappingProxyType({**self.current, sae_id: entry})
        return replace(self._with_kept(sae_id, tuple(kept)), current=current)

    def exchange(self, old: Entry, new: Entry) -> Snapshot | None:
        """`new` in the place of `old`; None if `old` is not here."""
        sae_id = old.info.sae_id
        if self.current.get(sae_id) is old:
            return replace(self, current=MappingProxyType({**self.current, sae_id: new}))
        kept = self.kept.get(sae_id, ())
        if old not in kept:
            return None
        return self._with_kept(sae_id, tuple(new if e is old else e for e in kept))

    def without(self, entry: Entry) -> Snapshot:
        """All but `entry`."""
        sae_id = entry.info.sae_id
        rest = tuple(e for e in self.kept.get(sae_id, ()) if e is not entry)
        current = {k: e for k, e in self.current.items() if e is not entry}
        return replace(self._with_kept(sae_id, rest), current=MappingProxyType(current))

    def _with_kept(self, sae_id: str, entries: tuple[Entry, ...]) -> Snapshot:
        kept = {k: e for k, e in self.kept.items() if k != sae_id}
        if entries:
            kept[sae_id] = entries
        return replace(self, kept=MappingProxyType(kept))
