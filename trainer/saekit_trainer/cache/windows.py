"""Rows of a cache in an order that is random across all of it, a window of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.cache.cache import ActivationCache
from saekit_trainer.special_tokens import left_out

BLOCK_BYTES: Final = 2**16
"""Neighbouring rows that are read together: enough at a time for a disk to be fast, and few enough
that a window has rows from everywhere."""


class Window(NamedTuple):
    """Rows that are trained on together."""

    rows: Tensor
    """``[n, d_in]``, of the cache's dtype."""
    order: Tensor
    """Those of them that are trained on, in random order: int64 ``[≤ n]``."""
    number: int
    """Counted over all passes."""


@dataclass(frozen=True)
class KeptRows:
    """Which rows of a cache are trained on at all."""

    tokenizer: LMTokenizer
    exclude: bool | Sequence[int]
    """Tokens whose activations are left out: True for the special ones, or ids."""
    seqpos_slice: tuple[int | None, ...] = (None,)

    def of(self, cache: ActivationCache, start: int, stop: int) -> Tensor:
        """Among rows `start` to `stop`, counted from `start`: int64, ascending."""
        kept = torch.ones(stop - start, dtype=torch.bool)
        if self.seqpos_slice != (None,):
            read = torch.zeros(cache.context_size, dtype=torch.bool)
            read[slice(*self.seqpos_slice)] = True
            kept &= read[torch.arange(start, stop) % cache.context_size]
        if self.exclude:
            kept &= ~left_out(self.tokenizer, cache.tokens(start, stop), self.exclude)
        return kept.nonzero().squeeze(1)


@dataclass
class WindowReader:
    """Reads one window after the other, without end.

    A pass takes the blocks of the cache in random order and cuts that order into windows; the rows
    of a window are shuffled. So a window has rows from all over the cache, every row comes once per
    pass, and the seed and its number determine a window.

    A window's rows lie in one half of the buffer, the next one's in the other.
    """

    cache: ActivationCache
    names: tuple[str, ...]
    """Of the hook points, whose activations lie side by side."""
    kept: KeptRows
    first_row: int
    """Rows before it are held out."""
    rows_per_window: int
    """At most."""
    seed: int
    number: int = 0
    """Of the window to read next."""
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, init=False, repr=False)
    """A pass, and its blocks."""

    def __post_init__(self) -> None:
        widths = {hook.name: hook.d for hook in self.cache.index.origin.hooks}
        self.d_in = sum(widths[name] for name in self.names)
        rows = self.cache.n_rows - self.first_row
        self._block_rows = max(BLOCK_BYTES // (self.d_in * self.cache.dtype.itemsize), 1)
        self._n_blocks = -(-rows // self._block_rows)
        per_window = max(self.rows_per_window // self._block_rows, 1)
        self._blocks_per_window = min(per_window, self._n_blocks)
        self.windows_per_pass = -(-self._n_blocks // self._blocks_per_window)
        length = self._blocks_per_window * self._block_rows
        self._buffer = torch.empty(2, length, self.d_in, dtype=self.cache.dtype)

    def __call__(self) -> Window:
        pass_, window = divmod(self.number, self.windows_per_pass)
        first = window * self._blocks_per_window
        blocks = self._blocks_of(pass_)[first : first + self._blocks_per_window]
        ranges = [self._rows_of(int(block)) for block in blocks]
        self.cache.will_read(self.names, ranges)
        rows = self._buffer[self.number % 2]
        kept, filled = [], 0
        for start, stop in ranges:
            self.cache.read(self.names, start, stop, rows[filled : filled + stop - start])
            kept.append(self.kept.of(self.cache, start, stop) + filled)
            filled += stop - start
        order = _generator(self.seed, pass_, window + 1).permutation(torch.cat(kept).numpy())
        self.number += 1
        return Window(rows[:filled], torch.from_numpy(order), self.number - 1)

    def _blocks_of(self, pass_: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != pass_:
            self._order = pass_, _generator(self.seed, pass_, 0).permutation(self._n_blocks)
        return self._order[1]

    def _rows_of(self, block: int) -> tuple[int, int]:
        start = self.first_row + block * self._block_rows
        return start, min(start + self._block_rows, self.cache.n_rows)


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([s % 2**64 for s in seed])))
