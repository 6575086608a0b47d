"""Which positions of a sequence are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Region = Literal["all", "prompt", "generated", "last_prompt"]


@dataclass(frozen=True)
class PositionSelector:
    """Positions of a sequence; position 0 is the first token id, BOS included.

    At most one of `region`, `last_n`, `ranges` and `roles`; none of them means the region "all". A
    BOS at position 0 is skipped unless `include_bos` is set or an explicit range covers 0.
    """

    region: Region | None = None
    """A region; "generated" for Steer only."""
    last_n: int | None = None
    """The last n positions of the input."""
    ranges: tuple[tuple[int | None, int | None], ...] = ()
    """Half-open ranges (start, end); negative numbers count from the input's end, None leaves a
    side open."""
    roles: tuple[str, ...] = ()
    """Messages of these roles; chat inputs only."""
    include_bos: bool = False
    """Also a BOS at position 0."""
    include_special: bool = True
    """Also positions of other special tokens."""

    def __post_init__(self) -> None:
        chosen = [
            name
            for name, given in (
                ("region", self.region is not None),
                ("last_n", self.last_n is not None),
                ("ranges", bool(self.ranges)),
                ("roles", bool(self.roles)),
            )
            if given
        ]
        if len(chosen) > 1:
            raise ValueError(f"expected one way to select positions, got {' and '.join(chosen)}")


PROMPT = PositionSelector(region="prompt")
GENERATED = PositionSelector(region="generated")
LAST_PROMPT = PositionSelector(region="last_prompt")


def last(n: int) -> PositionSelector:
    """The last n positions of the input."""
    return PositionSelector(last_n=n)


def between(start: int | None, end: int | None) -> PositionSelector:
    """Positions start <= p < end; negative numbers count from the end of the input."""
    return PositionSelector(ranges=((start, end),))
