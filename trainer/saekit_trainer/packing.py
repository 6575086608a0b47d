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
    where a context begins with a document, `bos` takes its place. Neither is put before one that
    is there already. No token of a document is lost but for those of a last context that does not
    fill up.
    """
    parts: list[Tokens] = []
    length = 0
    for document in documents:
        rest = document
        mark = separator if length else None
        while len(rest):
            mark = mark if length else bos
            head = _mark(mark, rest)
            taken = rest[: max(context_size - length - len(head), 0)]
            parts += [head, taken]
            length += len(head) + len(taken)
            rest, mark = rest[len(taken) :], None
            if length == context_size:
                yield np.concatenate(parts)
                parts, length = [], 0


def cut_documents(
    documents: Iterable[Tokens], *, context_size: int, bos: int | None
) -> Iterator[Tokens]:
    """The beginning of each document, behind `bos`, as a context ``[context_size]`` of its own.

    Documents that do not fill one are left out.
    """
    for document in documents:
        if len(document):
            head = _mark(bos, document)
            if len(head) + len(document) >= context_size:
                yield np.concatenate([head, document[: context_size - len(head)]])


def cut_stream(stream: Tokens, *, context_size: int, bos: int | None) -> Iterator[Tokens]:
    """Cut one stream of tokens that is separated already into contexts, each beginning with `bos`.

    A `bos` that the stream has there itself is not doubled.
    """
    start = 0
    while True:
        if start >= len(stream):
            return
        head = _mark(bos, stream[start:])
        stop = start + context_size - len(head)
        if stop > len(stream):
            return
        yield np.concatenate([head, stream[start:stop].astype(np.int64)])
        start = stop


def _mark(token: int | None, before: Tokens) -> Tokens:
    """`token` to put before those, if there is one and they do not begin with it: ``[0 or 1]``."""
    needed = token is not None and before[0] != token
    return np.array([token] if needed else [], np.int64)
