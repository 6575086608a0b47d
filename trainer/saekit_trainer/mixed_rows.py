"""Training batches of activations straight from the model, mixed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from saekit_trainer.live_rows import LiveRows
from saekit_trainer.mixing_buffer import MixingBuffer
from saekit_trainer.packing import Tokens
from saekit_trainer.store_config import StoreConfig


class MixedRows:
    """Batches from a `MixingBuffer` that runs of the model fill."""

    def __init__(self, live: LiveRows, config: StoreConfig, device: torch.device) -> None:
        """
        Args:
            live: belongs to this object from now on.
            config: sizes, dtype and seed.
            device: of the buffer.
        """
        self._live = live
        self._config = config
        self._device = device
        self._buffer: MixingBuffer | None = None

    @property
    def passes(self) -> int:
        return int(self._live.position["passes"])

    @property
    def skipped_samples(self) -> int:
        return int(self._live.position["skipped"])

    def next_batch(self, n: int, wanted: int | None = None) -> Tensor:
        """``[n, d_in]``, a tensor of its own; `wanted` as in `MixingBuffer.next_batch`."""
        if self._buffer is None:
            first = next(self._live)
            capacity = self._config.buffer_rows(self._live.context_size)
            chunks = itertools.chain([first], self._live)
            self._buffer = self._new_buffer(chunks, capacity, first.shape[1])
        return self._buffer.next_batch(n, wanted)

    def take_contexts(self, n: int) -> Tokens:
        """The next contexts, int64 ``[n, context]``, which then are not trained on."""
        return self._live.take_contexts(n)

    def state_dict(self) -> dict[str, Any]:
        """See `ActivationsStore.state_dict`."""
        position = {"contexts": self._live.position, **self._live.contexts.origin()}
        buffer = {} if self._buffer is None else self._buffer.state_dict()
        return {"position": position, "buffer": buffer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `ActivationsStore.load_state_dict`."""
        self._live.contexts.expect(state["position"])
        self._live.go_to(state["position"]["contexts"])
        self._buffer = None
        if state["buffer"]:
            capacity, d_in = state["buffer"]["rows"].shape
            self._buffer = self._new_buffer(self._live, capacity, d_in)
            self._buffer.load_state_dict(state["buffer"])

    def close(self) -> None:
        self._live.close()

    def _new_buffer(self, chunks: Iterator[Tensor], capacity: int, d_in: int) -> MixingBuffer:
        return MixingBuffer(
            chunks,
            capacity=capacity,
            d_in=d_in,
            dtype=self._config.dtype,
            device=self._device,
            seed=self._config.seed,
        )
