"""Activations straight from the model, which may run ahead of who trains on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from saekit_trainer.context_stream import ContextStream
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.packing import Tokens
from saekit_trainer.read_ahead import ReadAhead
from saekit_trainer.samples.reading import Position


class _Chunk(NamedTuple):
    rows: Tensor
    """``[rows, d_in]``, of one run of the model."""
    context_size: int
    behind: Position
    """Of the contexts, after those of this chunk."""


class _Round(NamedTuple):
    mine: Tensor
    """``[rows, d_in]``, of this rank's run of the model."""
    context_size: int
    behind: tuple[Position, ...]
    """Of the contexts, after those of each rank's run."""


@dataclass
class _Maker:
    """Runs the model over every count-th of the next runs of contexts, this rank's."""

    contexts: ContextStream
    n_prompts: int
    read: Callable[[Tokens], Tensor]
    ranks: Ranks

    def __call__(self) -> _Round:
        runs, behind = [], []
        for _ in range(self.ranks.count):
            runs.append(self.contexts.take(self.n_prompts))
            behind.append(self.contexts.position())
        mine = runs[self.ranks.index]
        return _Round(self.read(mine), mine.shape[1], tuple(behind))


class LiveRows(Iterator[Tensor]):
    """Activations ``[rows, d_in]`` of some contexts at a time, without end.

    Where it is, it says by what has been taken from it. What was computed ahead of that is computed
    again after a resume, or after contexts were taken in between; so nothing depends on how far
    ahead the model happened to be.

    Several ranks read the same contexts, run the model on different ones, and pass on what comes
    out: each has all activations, in the order in which one process has them.

    Attributes:
        position: of the contexts, behind all that was taken.
        n_prompts: contexts per run of the model.
        context_size: tokens per context; 0 before the first.
        contexts: not to be read past this object.
    """

    def __init__(
        self,
        contexts: ContextStream,
        read: Callable[[Tokens], Tensor],
        *,
        n_prompts: int,
        ahead: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """
        Args:
            contexts: belong to this object from now on.
            read: from contexts ``[prompts, context]`` to activations ``[rows, d_in]``. With
                `ahead` it is called in another thread, so it must not hold on to this object.
            n_prompts: contexts per run of the model.
            ahead: runs to do ahead; with 0 each is done when it is asked for.
            ranks: take turns to run the model.
        """
        self.position = contexts.position()
        self.n_prompts = n_prompts
        self.context_size = 0
        self.contexts = contexts
        self._ranks = ranks
        self._make = _Maker(contexts, n_prompts, read, ranks)
        self._ahead = ahead
        self._thread: ReadAhead[_Round] | None = None
        self._chunks: deque[_Chunk] = deque()

    def __next__(self) -> Tensor:
        if not self._chunks:
            self._next_round()
        chunk = self._chunks.popleft()
        self.position, self.context_size = chunk.behind, chunk.context_size
        return chunk.rows

    def take_contexts(self, n: int) -> Tokens:
        """The next contexts, int64 ``[n, context]``; activations go on behind them."""
        self.close()
        taken = self.contexts.take(n)
        self.position = self.contexts.position()
        return taken

    def go_to(self, position: Position) -> None:
        """Go on from an earlier `position`."""
        self.close()
        self.position = position
        self.contexts.go_to(position)

    def close(self) -> None:
        """End the thread, if there is one; the next activations start another."""
        if self._thread is None and not self._chunks:
            return
        if self._thread is not None:
            self._thread.close()
            self._thread = None
        self._chunks.clear()
        self.contexts.go_to(self.position)

    def _next_round(self) -> None:
        if self._ahead and self._thread is None:
            self._thread = ReadAhead(self._make, self._ahead)
        made = self._make() if self._thread is None else next(self._thread)
        # Here and not in the thread: ranks have to say things to each other in the same order.
        everyones = self._ranks.gather_rows(made.mine)
        for rows, behind in zip(everyones, made.behind, strict=True):
            self._chunks.append(_Chunk(rows, made.context_size, behind))
