"""Which SAEs leave the device's memory when there is not enough of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

import torch

from saekit_server.errors import exhausted
from saekit_server.registry.loaded import Entry, LastUse, LoadedSAE, ParkedSAE, SAEInfo
from saekit_server.registry.loading import moved
from saekit_server.registry.snapshot import Snapshot

Spill = Literal["host", "disk"]

GRACE_S: Final = 2.0
"""An SAE that was brought back stays at least so long, or until it was used: two callers with
room for only one SAE would otherwise push each other's out before either is answered."""


class Memory:
    """The budget for weights on the device; the registry's lock guards it."""

    def __init__(self, budget: int | None, spill: Spill, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.evictions = 0
        self._spill = spill
        self._clock = clock

    def victims(
        self, snapshot: Snapshot, newcomer: SAEInfo, replaced: Entry | None
    ) -> list[LoadedSAE]:
        """The SAEs that have to go for `newcomer`, least recently used first.

        Args:
            snapshot: what is loaded.
            newcomer: what needs room.
            replaced: what goes anyway, when the newcomer serves; if it is pinned it stays.

        Raises:
            DomainError: RESOURCE_EXHAUSTED; even without all that may go there is too little room.
        """
        if self.budget is None:
            return []
        going = replaced if replaced is not None and not replaced.info.pinned else None
        resident = [e for e in snapshot if isinstance(e, LoadedSAE) and e is not going]
        excess = sum(e.info.nbytes for e in resident) + newcomer.nbytes - self.budget
        now = self._clock()
        movable = [e for e in resident if not e.info.pinned and e.use.kept_until <= now]
        victims: list[LoadedSAE] = []
        for entry in sorted(movable, key=lambda e: e.use.at):
            if excess <= 0:
                break
            victims.append(entry)
            excess -= entry.info.nbytes
        if excess > 0:
            raise exhausted(
                f"{newcomer.name} takes {newcomer.nbytes} bytes, {excess} more than can be made "
                f"free of the memory budget of {self.budget}",
                retry_after_s=GRACE_S if newcomer.nbytes <= self.budget else None,
            )
        self.evictions += len(victims)
        return victims

    def parked(self, loaded: LoadedSAE) -> ParkedSAE:
        """The SAE out of the device's memory."""
        weights = moved(loaded.sae, torch.device("cpu")) if self._spill == "host" else None
        device = "disk" if weights is None else "cpu"
        return ParkedSAE(replace(loaded.info, device=device), loaded.use, weights)

    def just_restored(self) -> LastUse:
        """The use of an SAE that was asked for, but not yet handed out."""
        now = self._clock()
        return LastUse(now, kept_until=now + GRACE_S)
