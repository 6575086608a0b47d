"""Training batches from cached activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.cache.cache import ActivationCache
from saekit_trainer.cache.windows import KeptRows, Window, WindowReader
from saekit_trainer.context_stream import ContextStream
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import Tokens
from saekit_trainer.read_ahead import ReadAhead
from saekit_trainer.store_config import StoreConfig


class CachedRows:
    """Batches from the windows of a `WindowReader`; each row once per pass.

    What determines the batches to come is three numbers: nothing of the buffer has to be kept.

    Attributes:
        cache: where they come from.
    """

    def __init__(
        self,
        cache: ActivationCache,
        hooks: Sequence[HookPoint],
        tokenizer: LMTokenizer,
        config: StoreConfig,
        device: torch.device,
    ) -> None:
        """
        Args:
            hooks: whose activations lie side by side in a batch.
            config: sizes and seed; the buffer has as many rows as one behind the model would.
            device: of the batches.

        Raises:
            CacheError: the activations of a hook point are not in the cache.
            DatasetError: nothing is left beside the contexts that are held out.
        """
        self.cache = cache
        size = cache.context_size
        self._held_out = config.eval_contexts
        if cache.index.contexts <= self._held_out:
            raise DatasetError(
                f"cached_activations_path: the cache has no context beyond the {self._held_out} "
                "that are kept for evaluation",
                field="cached_activations_path",
            )
        self._reader = WindowReader(
            cache,
            tuple(cache.columns(hook) for hook in hooks),
            KeptRows(tokenizer, config.exclude_special_tokens, config.seqpos_slice),
            first_row=self._held_out * size,
            rows_per_window=config.buffer_rows(size) // 2,
            seed=config.seed,
        )
        self._dtype, self._device = config.dtype, device
        self._ahead = config.prefetch > 0
        self._thread: ReadAhead[Window] | None = None
        self._window: Window | None = None
        self._number, self._given = 0, 0
        self._contexts = ContextStream(cache, held_out=self._held_out)

    @property
    def passes(self) -> int:
        begun = self._number or self._given or self._window is not None
        return self._number // self._reader.windows_per_pass + 1 if begun else 0

    @property
    def skipped_samples(self) -> int:
        return self.cache.index.skipped_samples

    def next_batch(self, n: int, wanted: int | None = None) -> Tensor:
        """``[n, d_in]``, a tensor of its own; what is `wanted` after it makes no difference."""
        del wanted
        batch = torch.empty(n, self._reader.d_in, dtype=self._dtype)
        filled, windows = 0, 0
        while filled < n:
            window = self._current()
            chosen = window.order[self._given : self._given + n - filled]
            batch[filled : filled + len(chosen)] = window.rows.index_select(0, chosen)
            filled += len(chosen)
            self._given += len(chosen)
            windows = 0 if len(chosen) else windows + 1
            if windows > self._reader.windows_per_pass:
                raise DatasetError(
                    "cached_activations_path: all tokens of the cache are left out of training",
                    field="cached_activations_path",
                )
        return batch.to(self._device)

    def take_contexts(self, n: int) -> Tokens:
        """The next contexts of the cache, int64 ``[n, context]``, in the order of the data set."""
        return self._contexts.take(n)

    def state_dict(self) -> dict[str, Any]:
        """See `ActivationsStore.state_dict`."""
        position = {
            "window": self._number,
            "given": self._given,
            "contexts": self._contexts.position(),
            **self._contexts.origin(),
        }
        return {"position": position, "buffer": {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `ActivationsStore.load_state_dict`."""
        position = state["position"]
        self._contexts.expect(position)
        self.close()
        self._contexts.go_to(position["contexts"])
        self._number, self._given = position["window"], position["given"]

    def close(self) -> None:
        if self._thread is not None:
            self._thread.close()
        self._thread = self._window = None

    def _current(self) -> Window:
        """The window that rows come from; the next one where it is used up."""
        if self._window is not None and self._given == len(self._window.order):
            self._number, self._given = self._number + 1, 0
            self._window = self._next()
        if self._window is None:
            self._reader.number = self._number
            self._window = self._next()
        return self._window

    def _next(self) -> Window:
        if not self._ahead:
            return self._reader()
        if self._thread is None:
            self._thread = ReadAhead(self._reader, depth=1)
        return next(self._thread)
