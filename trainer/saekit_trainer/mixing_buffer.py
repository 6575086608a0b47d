"""A pool of activations from which training batches are drawn in random order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


class MixingBuffer:
    """Mixes rows of a stream of chunks.

    Its memory is allocated once. It is filled; half of it is handed out in random order, batch by
    batch; then a new random order is drawn over all of it, and so on. The rows of a batch are
    replaced by new ones before the next batch, so that new ones are asked for at the pace at which
    batches are: a model that runs ahead is never waited for in bursts. Each row that enters leaves
    once at most.

    Told how many rows are still wanted, it asks for no more than those, and hands out its last rows
    to the end: no activation is computed that nobody trains on.
    """

    def __init__(
        self,
        chunks: Iterator[Tensor],
        *,
        capacity: int,
        d_in: int,
        dtype: torch.dtype,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """
        Args:
            chunks: endless; each ``[rows, d_in]``.
            capacity: rows held, at least twice the largest batch.
            d_in: width of a row.
            dtype, device: of the buffer.
            seed: determines the order, together with the chunks.
        """
        self._chunks = chunks
        self._rows = torch.empty(capacity, d_in, dtype=dtype, device=device)
        self._generator = torch.Generator().manual_seed(seed)
        self._pending = self._rows[:0]
        self._order = torch.arange(capacity)
        self._taken = capacity
        self._vacant = capacity
        """Of the first `taken` rows of the order, how many at their end are not replaced yet."""

    @property
    def capacity(self) -> int:
        """Rows held."""
        return len(self._rows)

    def next_batch(self, n: int, wanted: int | None = None) -> Tensor:
        """`n` rows ``[n, d_in]``, at most half the capacity, as a tensor of their own.

        Args:
            wanted: rows that will be asked for, these included; None: without end.
        """
        if n > self.capacity // 2:
            raise ValueError(f"a batch of {n} from a buffer of {self.capacity}, at most half of it")
        self._refill(self.capacity if wanted is None else min(max(wanted, n), self.capacity))
        if self._vacant:
            self._begin_last_rows()
        elif self._taken + n > self.capacity // 2:
            self._order = torch.randperm(self.capacity, generator=self._generator)
            self._taken = 0
        batch = self._rows.index_select(0, self._slots(self._taken, self._taken + n))
        self._taken += n
        self._vacant += n
        return batch

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the chunks to come. The tensors are the buffer's own: write them down, or
        copy them, before the next batch.
        """
        return {
            "rows": self._rows,
            "order": self._order,
            "places": torch.tensor([self._taken, self._vacant]),
            "pending": self._pending,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`; the chunks to come have to be those that came after it.

        Raises:
            ValueError: it is of a buffer of another size or dtype.
        """
        if state["rows"].shape != self._rows.shape or state["rows"].dtype != self._rows.dtype:
            raise ValueError(
                f"the state is of a buffer {list(state['rows'].shape)} of {state['rows'].dtype}, "
                f"not {list(self._rows.shape)} of {self._rows.dtype}"
            )
        self._rows.copy_(state["rows"])
        self._order = state["order"].clone()
        self._taken, self._vacant = (int(i) for i in state["places"])
        self._pending = state["pending"].clone()
        # Torch reads it as a struct, and crashes where a mapped file has it at an odd address.
        self._generator.set_state(state["generator"].clone())

    def _refill(self, wanted: int) -> None:
        """Replace rows until there are `wanted`, at most the capacity."""
        while (missing := wanted - (self.capacity - self._vacant)) > 0:
            chunk = self._pending if len(self._pending) else next(self._chunks)
            part = chunk[:missing]
            first = self._taken - self._vacant
            slots = self._slots(first, first + len(part))
            self._rows.index_copy_(0, slots, part.to(self._rows))
            self._pending = chunk[len(part) :]
            self._vacant -= len(part)

    def _begin_last_rows(self) -> None:
        """Where some vacancies stay: from now on all rows that there are leave, in random order."""
        if self._taken == self._vacant:
            return  # It is so already.
        vacant = self._order[self._taken - self._vacant : self._taken]
        kept = torch.cat([self._order[: self._taken - self._vacant], self._order[self._taken :]])
        shuffled = kept[torch.randperm(len(kept), generator=self._generator)]
        self._order = torch.cat([vacant, shuffled])
        self._taken = self._vacant

    def _slots(self, start: int, stop: int) -> Tensor:
        return self._order[start:stop].to(self._rows.device)
