"""`ActivationCache`: cached activations as they lie on disk."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.safetensors_file import FLOATS, read_mapped
from saekit_trainer.cache.index import INDEX_FILE, CacheIndex, read_index
from saekit_trainer.cache.writer import TOKENS
from saekit_trainer.errors import CacheError
from saekit_trainer.packing import Tokens
from saekit_trainer.samples.reading import Position

FIELD: Final = "cached_activations_path"
_DTYPES: Final = {**FLOATS, "I32": torch.int32}


class ActivationCache:
    """A folder that `CacheActivationsRunner` wrote, mapped into memory: nothing of it is read but
    what is asked for.

    It is a source of contexts, too. Its rows are the tokens of all contexts, one after the other.

    Attributes:
        folder: where it lies.
        index: what it is of.
        n_rows: tokens in all.
        dtype: of the activations.
    """

    def __init__(self, folder: str | Path) -> None:
        """
        Raises:
            CacheError: there is no cache, an empty one, or a broken file.
        """
        self.folder = Path(folder)
        index = read_index(self.folder) if self.folder.is_dir() else None
        if index is None:
            raise CacheError(
                f"{FIELD}: {folder} holds no {INDEX_FILE}; `saekit train cache-activations` makes "
                "one",
                field=FIELD,
            )
        if not index.shards:
            raise CacheError(f"{FIELD}: the cache in {folder} is still empty", field=FIELD)
        self.index: CacheIndex = index
        self.n_rows = index.tokens
        self.dtype: torch.dtype = getattr(torch, index.origin.dtype)
        self._shards = [self._map(shard.file, shard.contexts) for shard in index.shards]
        sizes = [shard.contexts * self.context_size for shard in index.shards]
        self._starts = [0, *itertools.accumulate(sizes)]

    @property
    def context_size(self) -> int:
        return self.index.origin.context_size

    @property
    def identity(self) -> Any:
        """A cache that has grown gives another order."""
        return {"model_revision": self.index.origin.model_revision, "contexts": self.index.contexts}

    def contexts(self, start: Position | None = None) -> _CachedContexts:
        return _CachedContexts(self, 0 if start is None else start["context"])

    def columns(self, hook: HookPoint) -> str:
        """The name of a hook point in the shards.

        Raises:
            CacheError: its activations are not cached.
        """
        there = self.index.origin.hooks
        for cached in there:
            if cached.canonical == hook.canonical:
                return cached.name
        raise CacheError(
            f"hook_name: {self.folder} holds activations of "
            f"{', '.join(cached.name for cached in there)}, not of {hook.name}",
            field="hook_name",
        )

    def check_fits(
        self,
        model: LanguageModel,
        hooks: Sequence[HookPoint],
        *,
        context_size: int,
        prepend_bos: bool,
        dataset: str | None,
    ) -> None:
        """Refuse a cache of something else than a run is about.

        Args:
            dataset: None: whatever the cache is of.

        Raises:
            CacheError: naming what differs.
        """
        origin = self.index.origin
        if origin.model_revision != model.revision:
            self._refuse(
                "model_name",
                f"{origin.model_name} (revision {origin.model_revision})",
                f"{model.name} (revision {model.revision})",
            )
        for name, cached, wanted in (
            ("context_size", origin.context_size, context_size),
            ("prepend_bos", origin.prepend_bos, prepend_bos),
            ("dataset_path", origin.dataset, origin.dataset if dataset is None else dataset),
        ):
            if cached != wanted:
                self._refuse(name, cached, wanted)
        widths = {cached.canonical: cached.d for cached in origin.hooks}
        for hook in hooks:
            self.columns(hook)
            if widths[hook.canonical] != hook.d:
                self._refuse("d_in", widths[hook.canonical], hook.d)

    def _refuse(self, name: str, cached: object, wanted: object) -> None:
        raise CacheError(
            f"{name}: the activations in {self.folder} are of {cached}, the run is about {wanted}",
            field=name,
        )

    def tokens(self, start: int, stop: int) -> Tensor:
        """Token ids of rows, int64 ``[stop - start]``."""
        pieces = [shard[TOKENS].flatten()[a:b] for shard, a, b, _ in self._pieces(start, stop)]
        return torch.cat(pieces).long()

    def read(self, names: Sequence[str], start: int, stop: int, out: Tensor) -> None:
        """Activations of rows.

        Args:
            names: see `columns`; those of several lie side by side.
            out: ``[stop - start, d]``, of the cache's dtype; is filled.
        """
        for shard, a, b, row in self._pieces(start, stop):
            column = 0
            for name in names:
                values = shard[name].flatten(0, 1)[a:b]
                out[row : row + b - a, column : column + values.shape[1]] = values
                column += values.shape[1]

    def will_read(self, names: Sequence[str], ranges: Sequence[tuple[int, int]]) -> None:
        """Let the system fetch ranges of rows from the disk all at once.

        Several times as fast as one wait after the other; see docs/training.md.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for start, stop in ranges:
            for i, a, b, _ in self._places(start, stop):
                by_shard.setdefault(i, []).append((a, b))
        for i, places in by_shard.items():
            with (self.folder / self.index.shards[i].file).open("rb") as file:
                base = self._shards[i][names[0]]
                whole = base.untyped_storage().data_ptr()
                for name in names:
                    values = self._shards[i][name].flatten(0, 1)
                    first = values.data_ptr() - whole
                    row_bytes = values.shape[1] * values.itemsize
                    for a, b in places:
                        os.posix_fadvise(
                            file.fileno(),
                            first + a * row_bytes,
                            (b - a) * row_bytes,
                            os.POSIX_FADV_WILLNEED,
                        )

    def _map(self, file: str, contexts: int) -> dict[str, Tensor]:
        origin = self.index.origin
        try:
            tensors = read_mapped(self.folder / file, dtypes=_DTYPES)
        except SAEFormatError as error:
            raise CacheError(f"{FIELD}: {self.folder}/{error}", field=FIELD) from error
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            hook.name: ((contexts, origin.context_size, hook.d), self.dtype)
            for hook in origin.hooks
        }
        expected[TOKENS] = ((contexts, origin.context_size), torch.int32)
        found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        if found != expected:
            raise CacheError(
                f"{FIELD}: {self.folder / file} has {found}, expected {expected}", field=FIELD
            )
        return tensors

    def _places(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Where rows lie: shard, first and last row in it, and how many came before."""
        row = start
        while row < stop:
            i = bisect.bisect_right(self._starts, row) - 1
            a = row - self._starts[i]
            b = min(stop, self._starts[i + 1]) - self._starts[i]
            yield i, a, b, row - start
            row += b - a

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[dict[str, Tensor], int, int, int]]:
        return ((self._shards[i], a, b, row) for i, a, b, row in self._places(start, stop))


class _CachedContexts:
    skipped = 0

    def __init__(self, cache: ActivationCache, start: int) -> None:
        self._cache = cache
        self._next = start

    def position(self) -> Position:
        return {"context": self._next}

    def __iter__(self) -> _CachedContexts:
        return self

    def __next__(self) -> Tokens:
        if self._next == self._cache.index.contexts:
            raise StopIteration
        size = self._cache.context_size
        first = self._next * size
        self._next += 1
        ids: Tokens = self._cache.tokens(first, first + size).numpy().astype(np.int64)
        return ids
