"""`Ranks`: the processes that train together, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor


class Ranks:
    """A process alone: it has all there is, so nothing is sent and nothing is changed.

    `ProcessGroup` is one of several. Every method but the properties and `share` has to be called
    by all of them, in the same order.

    Attributes:
        index: of this process, from 0.
        count: of processes.
    """

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes, logs and displays."""
        return self.index == 0

    @property
    def label(self) -> str:
        """Who speaks, for messages; nothing where there is only one."""
        return ""

    def share(self, n: int) -> slice:
        """Which of `n` things are this process's: neighbours, as many as any other has or one more
        or less."""
        return slice(n * self.index // self.count, n * (self.index + 1) // self.count)

    def device_for(self, asked: str) -> str:
        """The device of this process where `asked` is what the run is to use."""
        return asked

    def all_sum(self, *tensors: Tensor) -> None:
        """Replace each of `tensors` by its sum over all processes."""

    def all_min(self, tensor: Tensor) -> None:
        """Replace `tensor` by the least of each element over all processes."""

    def all_max(self, tensor: Tensor) -> None:
        """Replace `tensor` by the greatest of each element over all processes."""

    def total(self, n: int) -> int:
        """The sum of a number over all processes."""
        return n

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether it is set in any process."""
        return flags

    def gather_rows(self, rows: Tensor) -> Sequence[Tensor]:
        """The ``[n, ...]`` of every process, by index; n may be another in each."""
        return (rows,)

    def main_clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        """The clock of the main process, for all of them."""
        return clock

    def is_first_to_fail(self) -> bool:
        """Whether no other process has asked this before; to be called by one that ends."""
        return True


ALONE: Final = Ranks()
"""One process, as most runs have."""
