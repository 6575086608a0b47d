"""Contexts without end: a source read again and again, from any place on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from saekit_trainer.contexts import ContextReader, ContextSource, RememberingSource
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import Tokens
from saekit_trainer.samples.reading import Position


class ContextStream:
    """Pass after pass over a source, without the contexts at its beginning that are held out.

    Attributes:
        source: what is read.
        passes: how often it has been begun.
        skipped: samples left out so far because they are broken, of all passes.
    """

    def __init__(
        self,
        source: ContextSource,
        *,
        held_out: int = 0,
        expected_tokens: int | None = None,
        once: bool = False,
    ) -> None:
        """
        Args:
            held_out: contexts at the beginning of each pass that are left out.
            expected_tokens: warn if the first pass has fewer.
            once: end after one pass.
        """
        self.source = source
        self.passes = 0
        self._held_out = held_out
        self._expected = expected_tokens
        self._once = once
        self._reader: ContextReader | None = None
        self._read = 0
        self._skipped_before = 0

    @property
    def skipped(self) -> int:
        return self._skipped_before + (0 if self._reader is None else self._reader.skipped)

    def position(self) -> Position:
        """Where the stream is, as JSON values."""
        return {
            "passes": self.passes,
            "reader": None if self._reader is None else self._reader.position(),
            "read": self._read,
            "skipped": self.skipped,
            "skipped_before": self._skipped_before,
        }

    def go_to(self, position: Position) -> None:
        """Go on from an earlier `position`, of this stream or of another over the same source."""
        self.passes, self._read = position["passes"], position["read"]
        self._skipped_before = position["skipped_before"]
        reader = position["reader"]
        self._reader = None if reader is None else self.source.contexts(reader)

    def origin(self) -> dict[str, Any]:
        """What the positions belong to, as JSON values; see `expect`."""
        source = self.source
        memory = source.memory() if isinstance(source, RememberingSource) else None
        return {"identity": source.identity, "memory": memory}

    def expect(self, origin: Mapping[str, Any]) -> None:
        """Check that positions of that `origin` have a meaning here.

        Raises:
            DatasetError: they have none.
        """
        if origin["identity"] != self.source.identity:
            raise DatasetError(
                f"dataset_path: the data set is {self.source.identity}, but the run began with "
                f"{origin['identity']}",
                field="dataset_path",
            )
        if isinstance(self.source, RememberingSource):
            self.source.remember(origin["memory"])

    def take(self, n: int) -> Tokens:
        """The next contexts, int64 ``[n, context_size]``; fewer at the end of an only pass.

        Raises:
            DatasetError: the source has none that is not held out, or a broken sample.
        """
        taken = [context for _ in range(n) if (context := self._next()) is not None]
        return np.stack(taken) if taken else np.empty((0, 0), np.int64)

    def _next(self) -> Tokens | None:
        while True:
            if self._reader is None:
                self._begin_pass()
            assert self._reader is not None
            context = next(self._reader, None)
            if context is not None:
                self._read += len(context)
                return context
            if not self._read:
                raise DatasetError(
                    f"dataset_path: the data set has no context beyond the {self._held_out} that "
                    "are kept for evaluation",
                    field="dataset_path",
                )
            if self._once:
                return None
            self._warn_of_end()
            self._skipped_before, self._reader = self.skipped, None

    def _begin_pass(self) -> None:
        self._reader = self.source.contexts()
        self.passes, self._read = self.passes + 1, 0
        for _ in islice(self._reader, self._held_out):
            pass

    def _warn_of_end(self) -> None:
        if self.passes == 1 and self._expected is not None and self._read < self._expected:
            warnings.warn(
                f"the data set ended after {self._read:,} tokens, of {self._expected:,} expected; "
                "it is read again from its beginning",
                stacklevel=2,
            )
