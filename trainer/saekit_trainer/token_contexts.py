"""Contexts of tokens that are tokens already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.context_format import ContextFormat
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import Tokens, cut_stream
from saekit_trainer.samples.reading import (
    BrokenSampleError,
    OnBrokenSample,
    Position,
    SampleSource,
    UsableSamples,
)


@dataclass(frozen=True)
class TokenRowContexts:
    """Rows of token ids that are contexts already; longer ones are cut to size."""

    rows: SampleSource
    format: ContextFormat
    d_vocab: int
    on_broken: OnBrokenSample = "stop"

    @property
    def identity(self) -> Any:
        return self.rows.identity

    def contexts(self, start: Position | None = None) -> _RowReader:
        return _RowReader(self, start)

    def context(self, value: Any) -> Tokens:
        """The beginning of a row.

        Raises:
            BrokenSampleError: it is no row of tokens, or too short.
        """
        try:
            ids = np.asarray(value)
        except (TypeError, ValueError):
            ids = np.array(None)
        if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
            raise BrokenSampleError(f"{type(value).__name__}, expected a list of token ids")
        if len(ids) < self.format.size:
            raise BrokenSampleError(
                f"{len(ids)} tokens, fewer than context_size={self.format.size}"
            )
        return known_ids(ids[: self.format.size], self.d_vocab)


class _RowReader:
    def __init__(self, source: TokenRowContexts, start: Position | None) -> None:
        self._rows = UsableSamples(
            source.rows, source.context, on_broken=source.on_broken, start=start
        )

    @property
    def skipped(self) -> int:
        return self._rows.skipped

    def position(self) -> Position:
        return self._rows.position()

    def __iter__(self) -> _RowReader:
        return self

    def __next__(self) -> Tokens:
        return next(self._rows)


@dataclass(frozen=True)
class TokenStreamContexts:
    """One long row of token ids, separated already where documents end."""

    stream: np.ndarray[Any, Any]
    """``[length]``, of integers."""
    tokenizer: LMTokenizer
    format: ContextFormat

    @property
    def identity(self) -> Any:
        return [list(self.stream.shape), str(self.stream.dtype)]

    def contexts(self, start: Position | None = None) -> _StreamReader:
        if not self.format.concatenate:
            raise DatasetError(
                "disable_concat_sequences: one stream of tokens does not say where documents end",
                field="disable_concat_sequences",
            )
        return _StreamReader(self, 0 if start is None else start["token"])


class _StreamReader:
    skipped = 0

    def __init__(self, source: TokenStreamContexts, start: int) -> None:
        self._d_vocab = source.tokenizer.d_vocab
        self._place = start
        self._contexts = cut_stream(
            source.stream,
            context_size=source.format.size,
            bos=source.format.bos(source.tokenizer),
            start=start,
        )

    def position(self) -> Position:
        return {"token": self._place}

    def __iter__(self) -> _StreamReader:
        return self

    def __next__(self) -> Tokens:
        context, place = next(self._contexts)
        try:
            known_ids(context, self._d_vocab)
        except BrokenSampleError as broken:
            raise DatasetError(
                f"dataset_path: the array at {self._place}: {broken}", field="dataset_path"
            ) from None
        self._place = place
        return context


def known_ids(ids: np.ndarray[Any, Any], d_vocab: int) -> Tokens:
    """`ids` as int64.

    Raises:
        BrokenSampleError: the model does not know all of them.
    """
    if not 0 <= int(ids.min()) <= int(ids.max()) < d_vocab:
        raise BrokenSampleError(
            f"token ids in {ids.min()}..{ids.max()}; the model knows 0..{d_vocab - 1}"
        )
    return ids.astype(np.int64)
