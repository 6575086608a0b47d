"""Documents of tokens packed into contexts of one length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


class Packer(Protocol):
    """Takes documents, piece by piece, and gives contexts."""

    partial: Tokens
    """Tokens of the context that is not full yet: all that a packer remembers."""

    def add(self, piece: Tokens, *, begins: bool = True) -> list[Tokens]:
        """The contexts ``[context_size]`` that `piece` completes.

        Args:
            piece: int64 ``[n]``, a document or a part of one.
            begins: whether a document begins here, rather than goes on.
        """


class JoiningPacker:
    """Cuts the concatenation of documents into contexts.

    With `bos`, each context begins with it. Between documents stands `separator`, if there is one;
    where a context begins with a document, `bos` takes its place. Neither is put before one that is
    there already. No token of a document is lost but for those of a last context that does not fill
    up.
    """

    def __init__(self, *, context_size: int, bos: int | None, separator: int | None) -> None:
        self.partial: Tokens = np.array([], np.int64)
        self._size = context_size
        self._bos = bos
        self._separator = separator

    def add(self, piece: Tokens, *, begins: bool = True) -> list[Tokens]:
        full: list[Tokens] = []
        parts, length, rest = [self.partial], len(self.partial), piece
        mark = self._separator if begins else None
        while len(rest):
            head = _mark(mark if length else self._bos, rest)
            taken = rest[: max(self._size - length - len(head), 0)]
            parts += [head, taken]
            length += len(head) + len(taken)
            rest, mark = rest[len(taken) :], None
            if length == self._size:
                full.append(np.concatenate(parts))
                parts, length = [], 0
        self.partial = np.concatenate([np.array([], np.int64), *parts])
        return full


class CuttingPacker:
    """Makes the beginning of each document, behind `bos`, a context of its own.

    Documents that do not fill one are left out.
    """

    def __init__(self, *, context_size: int, bos: int | None) -> None:
        self.partial: Tokens = np.array([], np.int64)
        self._size = context_size
        self._bos = bos

    def add(self, piece: Tokens, *, begins: bool = True) -> list[Tokens]:
        if not begins or not len(piece):
            return []
        head = _mark(self._bos, piece)
        if len(head) + len(piece) < self._size:
            return []
        return [np.concatenate([head, piece[: self._size - len(head)]])]


def cut_stream(
    stream: Tokens, *, context_size: int, bos: int | None, start: int = 0
) -> Iterator[tuple[Tokens, int]]:
    """Cut one stream of tokens that is separated already into contexts, each beginning with `bos`.

    A `bos` that the stream has there itself is not doubled.

    Returns:
        Contexts ``[context_size]`` from `start` on, each with the place in the stream behind it.
    """
    while start < len(stream):
        head = _mark(bos, stream[start:])
        stop = start + context_size - len(head)
        if stop > len(stream):
            return
        yield np.concatenate([head, stream[start:stop].astype(np.int64)]), stop
        start = stop


def _mark(token: int | None, before: Tokens) -> Tokens:
    """`token` to put before those, if there is one and they do not begin with it: ``[0 or 1]``."""
    needed = token is not None and before[0] != token
    return np.array([token] if needed else [], np.int64)
