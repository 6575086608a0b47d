"""A pool of activations from which training batches are drawn in random order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class MixingBuffer:
    """Mixes rows of a stream of chunks.

    Its memory is allocated once. It is filled, half of it is handed out in random order, the rows
    handed out are replaced by new ones, and so on: each row that enters leaves once at most.
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
        self._taken = capacity  # nothing is in it yet, so every row may be replaced

    @property
    def capacity(self) -> int:
        """Rows held."""
        return len(self._rows)

    def next_batch(self, n: int) -> Tensor:
        """`n` rows ``[n, d_in]``, at most half the capacity, as a tensor of their own."""
        if n > self.capacity // 2:
            raise ValueError(f"a batch of {n} from a buffer of {self.capacity}, at most half of it")
        if self._taken + n > self.capacity // 2:
            self._refill()
        index = self._order[self._taken : self._taken + n].to(self._rows.device)
        self._taken += n
        return self._rows.index_select(0, index)

    def _refill(self) -> None:
        slots = self._order[: self._taken]
        filled = 0
        while filled < len(slots):
            chunk = self._pending if len(self._pending) else next(self._chunks)
            part = chunk[: len(slots) - filled]
            self._rows[slots[filled : filled + len(part)].to(self._rows.device)] = part.to(
                self._rows
            )
            self._pending = chunk[len(part) :]
            filled += len(part)
        self._order = torch.randperm(self.capacity, generator=self._generator)
        self._taken = 0
