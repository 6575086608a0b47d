"""What every source of samples does: read on from a position, and name what is broken."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, Protocol, TypeVar

from saekit_trainer.errors import DatasetError

Position = dict[str, Any]
"""Where a reader is, as JSON values."""
OnBrokenSample = Literal["stop", "skip"]
T = TypeVar("T")
_SHOWN = 3


class BrokenSampleError(Exception):
    """One sample cannot be used. Its reader is past it and goes on with the next."""


class SampleReader(Protocol):
    """One pass over a data set, an iterator of samples.

    It raises `BrokenSampleError` in place of a sample that it cannot read.
    """

    @property
    def where(self) -> str:
        """The place of the last sample, for people: file and line, or row."""

    def __next__(self) -> Any: ...

    def position(self) -> Position:
        """From where `SampleSource.read` goes on with the next sample."""


class SampleSource(Protocol):
    """A data set that can be read as often as wanted, always in the same order."""

    @property
    def identity(self) -> Any:
        """JSON value that changes when positions lose their meaning: names, sizes."""

    def read(self, start: Position | None = None) -> SampleReader:
        """A pass, from its beginning or from a position of an earlier one on."""


class UsableSamples(Iterator[T], Generic[T]):
    """The samples of one pass that can be used.

    Attributes:
        skipped: how many could not, since the beginning of the pass.
    """

    def __init__(
        self,
        source: SampleSource,
        convert: Callable[[Any], T],
        *,
        on_broken: OnBrokenSample,
        start: Position | None = None,
    ) -> None:
        """
        Args:
            source: the data set.
            convert: from what it holds to what is wanted; may raise BrokenSampleError.
            on_broken: whether a broken sample ends the pass with a DatasetError, or is left out,
                counted and warned of.
            start: an earlier `position`.
        """
        self._reader = source.read(None if start is None else start["at"])
        self._convert = convert
        self._on_broken = on_broken
        self.skipped = 0 if start is None else int(start["skipped"])

    def position(self) -> Position:
        """From where another pass can go on."""
        return {"at": self._reader.position(), "skipped": self.skipped}

    def __next__(self) -> T:
        while True:
            try:
                return self._convert(next(self._reader))
            except BrokenSampleError as broken:
                self._broken(f"{self._reader.where}: {broken}")

    def _broken(self, message: str) -> None:
        if self._on_broken == "stop":
            raise DatasetError(
                f'{message}; on_broken_sample="skip" leaves such samples out',
                field="dataset_path",
            ) from None
        self.skipped += 1
        if self.skipped <= _SHOWN:
            more = "; further ones are only counted" if self.skipped == _SHOWN else ""
            warnings.warn(f"left out: {message}{more}", stacklevel=3)
