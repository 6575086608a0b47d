"""Samples of data sets that are objects in memory: Hugging Face's, arrays, lists."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from saekit_trainer.errors import DatasetError
from saekit_trainer.samples.arrow_values import values
from saekit_trainer.samples.reading import BrokenSampleError, Position

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class IndexedRows:
    """What has an index: a list of texts, an array ``[rows, length]`` of tokens."""

    rows: Sequence[Any] | np.ndarray[Any, Any]
    name: str = "the data set"

    @property
    def identity(self) -> Any:
        return len(self.rows)

    def read(self, start: Position | None = None) -> _RowReader:
        first = 0 if start is None else start["row"]
        return _RowReader((self.rows[i] for i in range(first, len(self.rows))), self.name, first)


@dataclass(frozen=True)
class TableRows:
    """One column of a Hugging Face data set that is on this machine (`datasets.Dataset`)."""

    rows: Any
    column: str
    name: str = "the data set"

    @property
    def identity(self) -> Any:
        return [len(self.rows), self.column]

    def read(self, start: Position | None = None) -> _RowReader:
        first = 0 if start is None else start["row"]
        return _RowReader(self._values(first), self.name, first)

    def _values(self, first: int) -> Iterator[Any]:
        if is_transformed(self.rows):
            for i in range(first, len(self.rows)):
                yield self.rows[i][self.column]
            return
        table = self.rows.with_format("arrow")
        for i in range(first, len(table), _ROWS_AT_ONCE):
            yield from values(table[i : i + _ROWS_AT_ONCE].column(self.column))


def is_transformed(dataset: Any) -> bool:
    """Whether a function of the user's makes the columns of a `datasets.Dataset` as it is read."""
    return getattr(dataset, "format", {}).get("type") == "custom"


@dataclass(frozen=True)
class StreamRows:
    """One column of an `IterableDataset` of Hugging Face, or of any iterable of mappings.

    A stream goes on where it was by its own state, if it has one that leads back exactly there;
    else what was read before is read again and left out.
    """

    rows: Iterable[Any]
    column: str
    name: str = "the data set"

    @property
    def identity(self) -> Any:
        return self.column

    def read(self, start: Position | None = None) -> _StreamReader:
        return _StreamReader(self, start)


class _RowReader:
    def __init__(self, rows: Iterator[Any], name: str, first: int) -> None:
        self._rows = rows
        self._name = name
        self._next = first

    @property
    def where(self) -> str:
        return f"{self._name}, row {self._next - 1}"

    def position(self) -> Position:
        return {"row": self._next}

    def __next__(self) -> Any:
        value = next(self._rows)
        self._next += 1
        return value


class _StreamReader:
    def __init__(self, source: StreamRows, start: Position | None) -> None:
        self._source = source
        self._row: int = 0 if start is None else start["row"]
        self._state: Any = None if start is None else start["state"]
        # A copy, since a stream keeps its state in itself, and there may be several passes at once.
        self._stream: Any = None
        rows: Iterable[Any] = source.rows
        if _resumes_exactly(source.rows):
            rows = self._stream = copy.deepcopy(source.rows, _shared_parts())
            if self._state is not None:
                self._stream.load_state_dict(self._state)
        self._rows = iter(rows)
        if self._stream is None:
            next(islice(self._rows, self._row, self._row), None)
        self._begun = False

    @property
    def where(self) -> str:
        return f"{self._source.name}, row {self._row - 1}"

    def position(self) -> Position:
        if self._stream is not None and self._begun:
            self._state = self._stream.state_dict()
        return {"row": self._row, "state": self._state}

    def __next__(self) -> Any:
        try:
            row = next(self._rows)
        except StopIteration:
            raise
        except Exception as error:  # of whatever library fetches and decodes the rows
            raise DatasetError(
                f"dataset_path: {self._source.name}, row {self._row}: cannot be read "
                f"({type(error).__name__}: {error})",
                field="dataset_path",
            ) from error
        self._begun = True
        self._row += 1
        if self._source.column not in row:
            raise BrokenSampleError(f"no column {self._source.column!r} in it")
        return row[self._source.column]


def _shared_parts() -> dict[int, Any]:
    """What copies of a stream have in common, as `copy.deepcopy` wants to know it.

    A stream refers to the cache of the Hub's file systems, which cannot be copied in another thread
    than the main one: it grows when it is.
    """
    from huggingface_hub import HfFileSystem

    return {id(HfFileSystem._cache): HfFileSystem._cache}


def _resumes_exactly(rows: Any) -> bool:
    """Whether `rows` has a state that leads back to where it was.

    Not so with a shuffle buffer, the content of which is no part of the state.
    """
    if not (hasattr(rows, "state_dict") and hasattr(rows, "_ex_iterable")):
        return False
    to_see = [rows._ex_iterable]
    while to_see:
        part = to_see.pop()
        if "Shuffle" in type(part).__name__:
            return False
        to_see += [part.ex_iterable] if hasattr(part, "ex_iterable") else []
        to_see += getattr(part, "ex_iterables", [])
    return True
