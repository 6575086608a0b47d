"""Results of many inputs, each with its own outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from saekit_client.errors import SAEKitError

R = TypeVar("R")


@dataclass(frozen=True)
class StreamItem(Generic[R]):
    """What one input of a stream gave: results or an error."""

    index: int
    """Index of the input, from 0."""
    id: str
    """Its id; empty if it had none."""
    results: tuple[R, ...]
    """One; under over_length="windows" one per window; none if it failed."""
    error: SAEKitError | None = None

    @property
    def result(self) -> R:
        """The result.

        Raises:
            SAEKitError: why the item failed.
            ValueError: it has several windows.
        """
        if self.error is not None:
            raise self.error
        if len(self.results) != 1:
            raise ValueError(f"input {self.index} has {len(self.results)} windows: use .results")
        return self.results[0]


class Batch(Sequence[R]):
    """The results of many inputs, in their order: `batch[i]` is what input i gave.

    An item that failed keeps its place; to touch it raises its error, so that no result is taken
    for another's. `errors` and `successes` tell them apart without raising.
    """

    def __init__(self, items: Sequence[StreamItem[R]]) -> None:
        """Takes the items in any order; their indices must be 0 to len(items) - 1."""
        self.items: tuple[StreamItem[R], ...] = tuple(sorted(items, key=lambda item: item.index))

    @property
    def errors(self) -> dict[int, SAEKitError]:
        """Errors by index of the input."""
        return {item.index: item.error for item in self.items if item.error is not None}

    @property
    def successes(self) -> list[R]:
        """All results there are, in order of inputs and windows; each has its `index` and `id`."""
        return [result for item in self.items for result in item.results]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [item.result for item in self.items[index]]
        return self.items[index].result

    def __iter__(self) -> Iterator[R]:
        return (item.result for item in self.items)

    def __repr__(self) -> str:
        return f"Batch({len(self)} inputs, {len(self.errors)} failed)"
