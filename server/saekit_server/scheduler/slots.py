"""Which slots are free."""

from heapq import heappop, heappush

from saekit_server.scheduler.errors import expect


class SlotPool:
    """Slot numbers 0 .. n - 1; the lowest free ones are handed out first."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self._free = list(range(n_slots))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, n: int) -> tuple[int, ...]:
        return tuple(heappop(self._free) for _ in range(n))

    def give_back(self, slots: tuple[int, ...]) -> None:
        for slot in slots:
            heappush(self._free, slot)

    def check_integrity(self, held: list[int]) -> None:
        """Raises IntegrityError unless free and held slots are all slots, each once."""
        every = sorted([*self._free, *held])
        expect(every == list(range(self.n_slots)), f"slots free {self._free}, held {held}")
