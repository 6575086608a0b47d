"""Contexts of tokens made from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.context_format import ContextFormat
from saekit_trainer.packing import Tokens
from saekit_trainer.samples.reading import (
    BrokenSampleError,
    OnBrokenSample,
    Position,
    SampleSource,
    UsableSamples,
)
from saekit_trainer.samples.text_files import Piece

# Texts are tokenised some at a time, which is twice as fast as one by one.
_TEXTS_AT_ONCE: Final = 32
_CHARACTERS_AT_ONCE: Final = 2**16


@dataclass(frozen=True)
class TextContexts:
    """Documents of text, tokenised and packed as they are read."""

    documents: SampleSource
    """Of strings, or of `Piece`."""
    tokenizer: LMTokenizer
    format: ContextFormat
    on_broken: OnBrokenSample = "stop"

    @property
    def identity(self) -> Any:
        return self.documents.identity

    def contexts(self, start: Position | None = None) -> _TextReader:
        return _TextReader(self, start)


class _TextReader:
    """A position: where the texts at hand began, and how many of their contexts are given out."""

    def __init__(self, source: TextContexts, start: Position | None) -> None:
        self._tokenizer = source.tokenizer
        self._packer = source.format.packer(source.tokenizer)
        self._pieces = UsableSamples(
            source.documents,
            as_piece,
            on_broken=source.on_broken,
            start=None if start is None else start["samples"],
        )
        if start is not None:
            self._packer.partial = np.array(start["partial"], np.int64)
        self._began = self._place()
        self._ready: list[Tokens] = []
        self._given = 0
        if start is not None and start["given"] is not None:
            self._read_on()
            self._given = start["given"]

    @property
    def skipped(self) -> int:
        return self._pieces.skipped

    def position(self) -> Position:
        return {**self._began, "given": self._given if self._ready else None}

    def __iter__(self) -> _TextReader:
        return self

    def __next__(self) -> Tokens:
        while self._given == len(self._ready):
            if not self._read_on():
                raise StopIteration
        self._given += 1
        return self._ready[self._given - 1]

    def _place(self) -> Position:
        return {"samples": self._pieces.position(), "partial": self._packer.partial.tolist()}

    def _read_on(self) -> bool:
        """Make contexts of the next texts; False at the end of the data set."""
        began = self._place()
        pieces: list[Piece] = []
        characters = 0
        while len(pieces) < _TEXTS_AT_ONCE and characters < _CHARACTERS_AT_ONCE:
            piece = next(self._pieces, None)
            if piece is None:
                break
            pieces.append(piece)
            characters += len(piece.text)
        if not pieces:
            return False
        rows = self._tokenizer.encode_many([piece.text for piece in pieces])
        self._ready = [
            context
            for row, piece in zip(rows, pieces, strict=True)
            for context in self._packer.add(row, begins=piece.begins)
        ]
        self._began, self._given = began, 0
        return True


def as_piece(value: Any) -> Piece:
    """A document of text.

    Raises:
        BrokenSampleError: it is none.
    """
    if isinstance(value, Piece):
        return value
    if not isinstance(value, str):
        raise BrokenSampleError(f"{type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BrokenSampleError(
            f"character {error.start} is half of a surrogate pair, which is no text"
        ) from None
    return Piece(value)
