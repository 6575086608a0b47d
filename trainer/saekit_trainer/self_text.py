"""Text that the model writes itself: training data where there is no data set."""

from __future__ import annotations

import base64
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.errors import UnsupportedModelError
from saekit_core.lm.model import LanguageModel
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import Tokens
from saekit_trainer.samples.reading import Position

ROWS_AT_ONCE = 64


@torch.no_grad()
def sample_contexts(
    model: LanguageModel,
    *,
    n_rows: int,
    context_size: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Sample rows from the model, each from its BOS on.

    Where a row reaches the end of a text, a BOS follows and the next text begins.

    Args:
        model: what writes.
        n_rows: rows, generated together.
        context_size: tokens per row, BOS included.
        temperature: of the sampling; nothing is truncated.
        generator: on the CPU; draws every token.

    Returns:
        int64 ``[n_rows, context_size]`` on the CPU.

    Raises:
        DatasetError: the tokenizer has no BOS to begin with, or the model cannot generate here.
    """
    bos = model.tokenizer.bos_id
    if bos is None:
        raise DatasetError(
            "dataset_path: the model has no BOS to begin a text of its own with; give a data set",
            field="dataset_path",
        )
    try:
        slots = model.new_slots(n_rows, context_size)
    except UnsupportedModelError as error:
        raise DatasetError(
            f"dataset_path: the model cannot write its own text ({error}); give a data set",
            field="dataset_path",
        ) from error
    ends = torch.tensor([i for i in model.tokenizer.eos_ids if i != bos], dtype=torch.int64)
    rows, one = torch.arange(n_rows), torch.ones(n_rows, dtype=torch.int64)
    tokens = torch.empty(n_rows, context_size, dtype=torch.int64)
    tokens[:, 0] = bos
    for position in range(1, context_size):
        last = tokens[:, position - 1]
        logits = model.forward_slots(
            slots,
            last[:, None],
            slot_ids=rows,
            start=one * (position - 1),
            n_new=one,
            taps={},
            logits_at=rows,
        )
        assert logits is not None
        probabilities = (logits.cpu() / temperature).softmax(dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        level = torch.rand(n_rows, 1, generator=generator) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, level, right=True).squeeze(1)
        drawn.clamp_(max=cumulative.shape[1] - 1)  # the level may round up to the whole sum
        if len(ends):
            drawn[torch.isin(last, ends)] = bos
        tokens[:, position] = drawn
    return tokens


@dataclass
class SelfTextContexts:
    """Contexts that the model writes on the first pass; later passes read the same ones."""

    model: LanguageModel
    context_size: int
    max_tokens: int
    """Tokens to write at most."""
    temperature: float
    seed: int
    max_seconds: float | None = None
    """Time to spend on writing at most, to the end of a chunk and of `min_contexts`."""
    min_contexts: int = 1
    """Contexts to write however long it takes."""
    _written: list[Tokens] = field(default_factory=list, repr=False)
    _out_of_time: bool = field(default=False, repr=False)
    _seconds: float = field(default=0.0, repr=False)
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def identity(self) -> Any:
        return [self.model.revision, self.context_size, self.temperature, self.seed]

    def contexts(self, start: Position | None = None) -> _WrittenReader:
        """One pass over what there is, and what may still be written."""
        return _WrittenReader(self, 0 if start is None else start["context"])

    def context(self, index: int) -> Tokens | None:
        """One of the contexts, written now if there is none yet; None behind the last."""
        with self._writing:
            while index >= len(self._written):
                self._out_of_time = self._out_of_time or self._is_late()
                if self._out_of_time or len(self._written) >= self._wanted:
                    return None
                self._write()
            return self._written[index]

    def memory(self) -> dict[str, Any]:
        """The text so far, as JSON values: another process would take as long to write it again,
        and writing may have ended by the clock."""
        with self._writing:
            tokens = np.array(self._written, "<i4")
            packed = base64.b85encode(zlib.compress(tokens.tobytes())).decode()
            ended = {"out_of_time": self._out_of_time, "seconds": self._seconds}
            return {"tokens": packed, **ended}

    def remember(self, memory: dict[str, Any]) -> None:
        """Take over the text of a `memory` with the same `identity`."""
        with self._writing:
            data = zlib.decompress(base64.b85decode(memory["tokens"]))
            tokens = np.frombuffer(data, "<i4").reshape(-1, self.context_size)
            self._written = list(tokens.astype(np.int64))
            self._out_of_time, self._seconds = memory["out_of_time"], memory["seconds"]

    def _is_late(self) -> bool:
        late = self.max_seconds is not None and self._seconds >= self.max_seconds
        return late and len(self._written) >= self.min_contexts

    @property
    def _wanted(self) -> int:
        return max(self.max_tokens // self.context_size, 1)

    def _write(self) -> None:
        done, began = len(self._written), time.monotonic()
        rows = sample_contexts(
            self.model,
            n_rows=min(ROWS_AT_ONCE, self._wanted - done),
            context_size=self.context_size,
            temperature=self.temperature,
            # A seed per chunk: the text does not depend on how often a pass was broken off.
            generator=torch.Generator().manual_seed(self.seed + done),
        )
        self._seconds += time.monotonic() - began
        self._written.extend(rows.numpy())


class _WrittenReader:
    skipped = 0

    def __init__(self, source: SelfTextContexts, start: int) -> None:
        self._source = source
        self._next = start

    def position(self) -> Position:
        return {"context": self._next}

    def __iter__(self) -> _WrittenReader:
        return self

    def __next__(self) -> Tokens:
        context = self._source.context(self._next)
        if context is None:
            raise StopIteration
        self._next += 1
        return context
