"""The stories that the default model learns from: reading, splitting, packing into rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

STORY_SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class Corpus:
    """Stories to train on and stories kept back to measure on; no story is in both."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def read_corpus(path: Path, *, held_out_every: int = 20) -> Corpus:
    """Reads a UTF-8 file of stories separated by lines `<|endoftext|>`.

    Every `held_out_every`-th story is held out, so the split depends on the file alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: fewer stories than one training and one held-out story.
    """
    text = path.read_text(encoding="utf-8")
    stories = [story for part in text.split(STORY_SEPARATOR) if (story := part.strip())]
    if len(stories) < held_out_every:
        raise ValueError(
            f"{path}: found {len(stories)} stories separated by {STORY_SEPARATOR}, "
            f"expected at least {held_out_every}"
        )
    return Corpus(
        train=tuple(s for i, s in enumerate(stories) if i % held_out_every),
        held_out=tuple(stories[::held_out_every]),
    )


def training_rows(
    stories: Sequence[Sequence[int]], *, row_length: int, bos_id: int, seed: int
) -> Iterator[list[int]]:
    """Endless rows of exactly `row_length` token ids over shuffled epochs.

    Each row begins with the BOS token and the beginning of a story, as every prompt at
    inference does. A story that the end of a row cuts off opens the next row whole; only the part
    of a story that is longer than a row is never seen. Each story ends in BOS, which is also EOS.
    """
    shuffler = random.Random(seed)
    order = list(range(len(stories)))
    row: list[int] = []
    while True:
        shuffler.shuffle(order)
        for index in order:
            story = [bos_id, *stories[index]]
            row.extend(story)
            if len(row) >= row_length:
                started_late = len(row) > row_length and len(row) > len(story)
                yield row[:row_length]
                row = story if started_late else []
                if len(row) >= row_length:
                    yield row[:row_length]
                    row = []


def batches(rows: Iterator[list[int]], batch_size: int) -> Iterator[Tensor]:
    """Groups rows into token batches, int64 [batch_size, row_length]."""
    while True:
        yield torch.tensor([next(rows) for _ in range(batch_size)])
