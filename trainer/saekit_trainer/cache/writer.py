"""Cached activations on their way to disk, shard by shard."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saekit_trainer.cache.index import INDEX_FILE, CacheIndex, CacheOrigin, Shard, read_index
from saekit_trainer.disk_errors import why_not_written
from saekit_trainer.errors import CacheError
from saekit_trainer.samples.reading import Position

TOKENS: Final = "tokens"
"""Name of the token ids in a shard; no hook point is called so."""
SHARD_BYTES: Final = 2**28
_ASIDE: Final = ".making-"


class CacheWriter:
    """Adds contexts to a folder of cached activations.

    Shards and index are written aside and renamed, the shard first: whenever the process ends, the
    folder holds a cache that can be read and gone on with.

    Attributes:
        index: what the folder holds.
    """

    def __init__(self, folder: Path, origin: CacheOrigin) -> None:
        """
        Args:
            folder: new, empty, or with a cache of the same origin, which is gone on with.

        Raises:
            CacheError: it has something else, or cannot be written.
        """
        self.folder = folder
        self.index = self._begin(origin)
        per_context = origin.context_size * sum(hook.d for hook in origin.hooks)
        self._dtype: torch.dtype = getattr(torch, origin.dtype)
        batches = SHARD_BYTES // (per_context * self._dtype.itemsize * origin.batch_size_prompts)
        # Whole runs of the model, so that going on repeats the same ones.
        self._capacity = max(batches, 1) * origin.batch_size_prompts
        self._tokens = torch.empty(self._capacity, origin.context_size, dtype=torch.int32)
        self._activations = {
            hook.name: torch.empty(self._capacity, origin.context_size, hook.d, dtype=self._dtype)
            for hook in origin.hooks
        }
        self._filled = 0

    @property
    def contexts(self) -> int:
        """All that were added, also those not on disk yet."""
        return self.index.contexts + self._filled

    @property
    def room(self) -> int:
        """Contexts that the shard at hand still takes."""
        return int(self._capacity - self._filled)

    def add(self, tokens: Tensor, activations: dict[str, Tensor]) -> None:
        """Put contexts into the shard at hand, `room` of them at most.

        Args:
            tokens: int64 ``[contexts, context_size]``.
            activations: by the name of the hook point, ``[contexts, context_size, d]``.

        Raises:
            CacheError: a value is not finite, or not in the number type of the cache.
        """
        part = slice(self._filled, self._filled + len(tokens))
        for name, values in activations.items():
            stored = self._activations[name][part]
            stored.copy_(values)
            if not stored.isfinite().all():
                largest = float(values.float().abs().max())
                raise CacheError(
                    f"dtype: activations at {name} reach {largest:.4g}, which {self._dtype} does "
                    "not hold; use bfloat16 or float32",
                    field="dtype",
                )
        self._tokens[part] = tokens
        self._filled += len(tokens)

    def write_shard(self, position: Position, memory: Any) -> None:
        """Put the shard at hand on disk, if anything is in it.

        Args:
            position, memory: of the data set, behind the contexts in it.

        Raises:
            CacheError: it cannot be written; what was there before stays as it is.
        """
        if not self._filled:
            return
        tensors = {name: values[: self._filled] for name, values in self._activations.items()}
        tensors[TOKENS] = self._tokens[: self._filled]
        shard = Shard(f"shard-{len(self.index.shards):05d}.safetensors", self._filled)
        index = self.index.with_shard(shard, position, memory)
        try:
            # A folder aside, as safetensors puts temporary files of its own beside the file.
            with TemporaryDirectory(prefix=_ASIDE, dir=self.folder) as aside:
                file = Path(aside) / shard.file
                save_file(tensors, file)
                file.chmod((self.folder / INDEX_FILE).stat().st_mode)  # it is private, so far
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.replace(self.folder / shard.file)
            index.write(self.folder)
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"{why_not_written(self.folder, error)}; {self.index.tokens:,} tokens in "
                f"{len(self.index.shards)} shards are there and can be trained on, and the same "
                "command goes on behind them",
                field="new_cached_activations_path",
            ) from error
        self.index, self._filled = index, 0

    def _begin(self, origin: CacheOrigin) -> CacheIndex:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            index = read_index(self.folder)
            if index is None:
                if others := [p.name for p in self.folder.iterdir() if p.name[0] != "."]:
                    raise CacheError(
                        f"new_cached_activations_path: {self.folder} is not empty ({others[0]} is "
                        "in it) and no cache",
                        field="new_cached_activations_path",
                    )
                index = CacheIndex(origin)
                index.write(self.folder)
            for left in self.folder.glob(f"{_ASIDE}*"):
                shutil.rmtree(left)
        except OSError as error:
            raise CacheError(
                f"new_cached_activations_path: {why_not_written(self.folder, error)}",
                field="new_cached_activations_path",
            ) from error
        if different := index.origin.differences(origin):
            raise CacheError(
                f"new_cached_activations_path: {self.folder} holds other activations "
                f"({'; '.join(different)})",
                field="new_cached_activations_path",
            )
        return index
