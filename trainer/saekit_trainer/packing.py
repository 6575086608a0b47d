"""Documents of tokens packed into contexts of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def pack_documents(
    documents: Iterable[Tokens], *, context_size: int, bos: int | None, separator: int | None
) -> Iterator[Tokens]:
    """Cut the concatenation of `documents` into contexts ``[context_size]``.

    With `bos`, each context begins with it. Between documents stands `separator`, if there is one;
    where a context begins with a document, `bos` takes its place. No token of a document is lost
    but for those of a last context that does not fill up.
    """
    head = [] if bos is None else [np.array([bos], np.int64)]
    gap = [] if separator is None else [np.array([separator], np.int64)]
    parts: list[Tokens] = []
    length = 0
    for document in documents:
        pieces = [*gap, document] if length else [document]
        for piece in pieces:
            rest = piece
            while len(rest):
                if not length:
                    parts, length = list(head), len(head)
                taken, rest = rest[: context_size - length], rest[context_size - length :]
                parts.append(taken)
                length += len(taken)
                if length == context_size:
                    yield np.concatenate(parts)
                    parts, length = [], 0


def cut_stream(stream: Tokens, *, context_size: int, bos: int | None) -> Iterator[Tokens]:
    """Cut one stream of tokens that is separated already into contexts, each beginning with `bos`.

    A `bos` that the stream has there itself is not doubled.
    """
    start = 0
    while True:
        head = bos is not None and start < len(stream) and stream[start] != bos
        stop = start + context_size - head
        if stop > len(stream):
            return
        piece = stream[start:stop].astype(np.int64)
        yield np.concatenate([np.array([bos], np.int64), piece]) if head else piece
        start = stop
