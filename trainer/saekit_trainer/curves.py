"""Figures over the course of a run, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_LIMIT: Final = 1024
_BARS: Final = "▁▂▃▄▅▆▇█"


class Curve:
    """A figure over tokens; of a long run, means of equally many neighbours.

    Attributes:
        xs: tokens at the end of each point, ascending.
        ys: the figure there.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        """
        Args:
            limit: even number of points; on reaching it, neighbours are averaged.
        """
        self.xs: list[float] = []
        self.ys: list[float] = []
        self._limit = limit
        self._stride = 1
        self._waiting: list[float] = []

    def add(self, x: float, y: float) -> None:
        """Add a point behind the others; one without a finite value, or in their last place, is
        left out."""
        if not math.isfinite(y) or self.xs[-1:] == [x]:
            return
        self._waiting.append(y)
        if len(self._waiting) < self._stride:
            return
        self.xs.append(x)
        self.ys.append(sum(self._waiting) / self._stride)
        self._waiting.clear()
        if len(self.xs) >= self._limit:
            self.xs = self.xs[1::2]
            self.ys = [(a + b) / 2 for a, b in zip(self.ys[::2], self.ys[1::2], strict=True)]
            self._stride *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as at most `width` bars between their smallest and largest."""
    n = min(len(values), width)
    if not n:
        return ""
    edges = [len(values) * i // n for i in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)
