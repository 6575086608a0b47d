"""Every source says where it is, and goes on from there with the very same contexts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.models import build_tokenizer, story

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer import text_contexts
from saekit_trainer.context_stream import ContextStream
from saekit_trainer.contexts import ContextFormat, ContextSource, open_contexts
from saekit_trainer.errors import DatasetError
from saekit_trainer.samples import text_files

SIZE = 16
STORIES = [story(8 + i % 30, seed=i) for i in range(60)]
PARTS = (STORIES[:25], STORIES[25:40], STORIES[40:])
FORMAT = ContextFormat(SIZE, prepend_bos=True)
TOKENS = np.random.default_rng(0).integers(4, 400, (50, SIZE + 4))


@pytest.fixture(scope="module")
def tokenizer() -> LMTokenizer:
    return LMTokenizer(build_tokenizer(), d_vocab=400)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts fall between texts, within them, and within what is tokenised at a time."""
    monkeypatch.setattr(text_contexts, "_TEXTS_AT_ONCE", 3)
    monkeypatch.setattr(text_files, "PIECE_BYTES", 90)


def text_folder(folder: Path) -> str:
    for i, part in enumerate(PARTS):
        (folder / f"{i}.txt").write_text("\n<|endoftext|>\n".join(part), encoding="utf-8")
    return f"{folder}/*.txt"


def jsonl_folder(folder: Path) -> str:
    for i, part in enumerate(PARTS):
        lines = [json.dumps({"id": i, "story": text}) for text in part]
        (folder / f"{i}.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    return f"{folder}/*.jsonl"


def parquet_folder(folder: Path) -> str:
    for i, part in enumerate(PARTS):
        pq.write_table(pa.table({"text": part}), folder / f"{i}.parquet", row_group_size=7)
    return f"{folder}/*.parquet"


def token_parquet(folder: Path) -> str:
    pq.write_table(pa.table({"input_ids": list(TOKENS)}), folder / "rows.parquet", row_group_size=9)
    return f"{folder}/rows.parquet"


def hub_folder(folder: Path) -> str:
    parquet_folder(folder)
    return str(folder)


def saved_tokens(folder: Path) -> str:
    rows = datasets.Dataset.from_dict({"text": ["-"] * len(TOKENS), "tokens": list(TOKENS)})
    rows.save_to_disk(str(folder))
    return str(folder)


def array_file(folder: Path, array: np.ndarray[Any, Any]) -> str:
    np.save(folder / "tokens.npy", array.astype(np.uint16))
    return str(folder / "tokens.npy")


def written() -> Iterator[dict[str, str]]:
    for text in STORIES:
        yield {"text": text}


def streamed(folder: Path) -> Any:
    # Of JSON: at the end of an interleaved stream of Parquet files `datasets` sleeps for seconds.
    jsonl_folder(folder)
    rows = datasets.load_dataset(str(folder), split="train", streaming=True)
    return rows.rename_column("story", "text")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "text files": text_folder,
    "JSON lines": jsonl_folder,
    "Parquet": parquet_folder,
    "Parquet of tokens": token_parquet,
    "hub, streamed": hub_folder,
    "hub, on disk": hub_folder,
    "saved": saved_tokens,
    "array file": lambda folder: array_file(folder, TOKENS),
    "array file, one stream": lambda folder: array_file(folder, TOKENS.flatten()),
    "data set": lambda _: datasets.Dataset.from_dict({"text": STORIES}),
    "data set, shuffled": lambda _: datasets.Dataset.from_dict({"text": STORIES}).shuffle(seed=1),
    "data set, transformed": lambda _: datasets.Dataset.from_dict({"t": STORIES}).with_transform(
        lambda rows: {"text": [text.upper() for text in rows["t"]]}
    ),
    "stream, mapped": lambda folder: streamed(folder).map(lambda row: {"text": row["text"] * 2}),
    "stream, shuffled": lambda folder: streamed(folder).shuffle(seed=3, buffer_size=11),
    "stream, interleaved": lambda folder: datasets.interleave_datasets(
        [streamed(folder), datasets.IterableDataset.from_generator(written)], seed=2
    ),
    "generated": lambda _: datasets.IterableDataset.from_generator(written),
    "list": lambda _: [{"text": text} for text in STORIES],
}


def opened(name: str, folder: Path, tokenizer: LMTokenizer, **options: Any) -> ContextSource:
    dataset = SOURCES[name](folder)
    if name == "JSON lines":
        options["column"] = "story"
    options.setdefault("format", FORMAT)
    return open_contexts(dataset, tokenizer, streaming=name != "hub, on disk", **options)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_goes_on_where_another_stopped(
    name: str, tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    source = opened(name, tmp_path, tokenizer)
    every = np.stack(list(source.contexts()))
    assert len(every) > 40
    rng = random.Random(0)
    for cut in {0, 1, len(every) - 1, len(every), *(rng.randrange(len(every)) for _ in range(8))}:
        reader, other = source.contexts(), source.contexts()
        for i in range(cut):
            next(reader)
            if i % 3 == 0:
                next(other)  # a second pass at the same time disturbs nothing
        position = json.loads(json.dumps(reader.position()))
        rest = list(opened(name, tmp_path, tokenizer).contexts(position))
        assert len(rest) == len(every) - cut
        assert all(np.array_equal(a, b) for a, b in zip(rest, every[cut:], strict=True))


@pytest.mark.parametrize("concatenate", [True, False])
@pytest.mark.parametrize("separator", ["eos", None])
def test_positions_do_not_depend_on_how_contexts_are_packed(
    separator: Any, concatenate: bool, tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    format_ = ContextFormat(SIZE, True, separator, concatenate)
    source = opened("text files", tmp_path, tokenizer, format=format_)
    every = list(source.contexts())
    for cut in range(0, len(every), 5):
        reader = source.contexts()
        for _ in range(cut):
            next(reader)
        rest = list(source.contexts(reader.position()))
        assert np.array_equal(np.array(rest), np.array(every[cut:]))


def test_a_long_document_is_one_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(STORIES) + " naïve – 猫が座った。" * 20
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")

    def pieces(n_bytes: int) -> list[text_files.Piece]:
        monkeypatch.setattr(text_files, "PIECE_BYTES", n_bytes)
        reader = text_files.TextFiles((tmp_path / "one.txt",)).read()
        return list(iter(lambda: next(reader, None), None))  # type: ignore[arg-type]

    for n_bytes in (7, 90, 10**6):
        found = pieces(n_bytes)
        assert "".join(piece.text for piece in found) == text
        assert [piece.begins for piece in found] == [True] + [False] * (len(found) - 1)
        assert max(len(piece.text.encode()) for piece in found) <= 2 * n_bytes


def test_a_stream_goes_on_over_passes_and_keeps_count(
    tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    stream = ContextStream(opened("Parquet", tmp_path, tokenizer), held_out=4)
    total = len(list(stream.source.contexts())) - 4
    every = stream.take(3 * total)
    assert np.array_equal(every[:total], every[2 * total :])
    assert stream.passes == 3
    for cut in (0, 1, total - 1, total, total + 5, 2 * total):
        first = ContextStream(stream.source, held_out=4)
        if cut:
            first.take(cut)
        state = json.loads(json.dumps({"at": first.position(), "origin": first.origin()}))
        second = ContextStream(opened("Parquet", tmp_path, tokenizer), held_out=4)
        second.expect(state["origin"])
        second.go_to(state["at"])
        assert np.array_equal(second.take(3 * total - cut), every[cut:])
        assert second.passes == 3


def test_a_position_is_of_no_use_for_another_data_set(
    tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    stream = ContextStream(opened("Parquet", tmp_path, tokenizer))
    origin = stream.origin()
    (tmp_path / "2.parquet").rename(tmp_path / "3.parquet")
    other = ContextStream(open_contexts(f"{tmp_path}/*.parquet", tokenizer, FORMAT))
    with pytest.raises(DatasetError, match=r"3\.parquet.*but the run began with.*2\.parquet"):
        other.expect(origin)
