"""A sample that cannot be used is named by file and place, and stops the run or is counted."""

from __future__ import annotations

import json
import warnings
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
from saekit_trainer.contexts import ContextFormat, open_contexts
from saekit_trainer.errors import DatasetError

SIZE = 16
FORMAT = ContextFormat(SIZE, prepend_bos=True)
STORIES = [story(30, seed=i) for i in range(12)]


@pytest.fixture(scope="module")
def tokenizer() -> LMTokenizer:
    return LMTokenizer(build_tokenizer(), d_vocab=400)


def write(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def lines(*third: str) -> str:
    good = [json.dumps({"text": text}) for text in STORIES]
    return "\n".join([*good[:2], *third, *good[2:]])


def table(column: str, rows: list[Any]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        pq.write_table(pa.table({column: rows}), folder / "rows.parquet", row_group_size=2)
        return f"{folder}/rows.parquet"

    return make


ROWS = [list(range(5, 5 + SIZE)) for _ in range(3)]
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no JSON": (
        lambda folder: write(folder / "a.jsonl", lines("{oops")),
        r"a\.jsonl, line 3: not JSON",
    ),
    "no object": (
        lambda folder: write(folder / "a.jsonl", lines("[1]")),
        r"a\.jsonl, line 3: a JSON list, expected an object",
    ),
    "no field": (
        lambda folder: write(folder / "a.jsonl", lines('{"title": "x"}')),
        r"a\.jsonl, line 3: no field 'text'",
    ),
    "no text": (
        lambda folder: write(folder / "a.jsonl", lines('{"text": 3}')),
        r"a\.jsonl, line 3: int, expected text",
    ),
    "half a character": (
        lambda folder: write(folder / "a.jsonl", lines('{"text": "\\ud800"}')),
        r"a\.jsonl, line 3: character 0 is half of a surrogate pair",
    ),
    "bytes in JSON": (
        lambda folder: write(folder / "a.jsonl", lines().encode() + b'\n{"text": "\xff"}'),
        r"a\.jsonl, line 13: not JSON",
    ),
    "bytes in text": (
        lambda folder: write(
            folder / "a.txt",
            "\n<|endoftext|>\n".join(STORIES[:3]).encode()
            + b"\n<|endoftext|>\nfine\nbad \xff\n<|endoftext|>\n"
            + "\n<|endoftext|>\n".join(STORIES[3:]).encode(),
        ),
        r"a\.txt, line 8: byte 0xff is not UTF-8",
    ),
    "null in Parquet": (
        table("text", [*STORIES[:3], None, *STORIES[3:]]),
        r"rows\.parquet, row group 1, row 1: NoneType, expected text",
    ),
    "short row": (
        table("tokens", [*ROWS, [1, 2], *ROWS]),
        r"rows\.parquet, row group 1, row 1: 2 tokens, fewer than context_size=16",
    ),
    "unknown ids": (
        table("tokens", [*ROWS, [400] * SIZE, *ROWS]),
        r"row 1: token ids in 400..400; the model knows 0..399",
    ),
    "null row": (
        table("tokens", [*ROWS, None, *ROWS]),
        r"row 1: NoneType, expected a list of token ids",
    ),
    "data set": (
        lambda _: datasets.Dataset.from_dict({"text": [*STORIES, None]}),
        r"the data set, row 12: NoneType, expected text",
    ),
    "list": (
        lambda _: [
            *({"text": text} for text in STORIES[:1]),
            {"title": "x"},
            *({"text": text} for text in STORIES[1:]),
        ],
        r"the data set, row 1: no column 'text'",
    ),
    "array": (
        lambda _: np.array([*ROWS, [-1] * SIZE, *ROWS]),
        r"the array, row 3: token ids in -1..-1",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sample_stops_or_is_left_out_and_counted(
    name: str, tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    make, message = BROKEN[name]
    dataset = make(tmp_path)
    with pytest.raises(DatasetError, match=message + r".*on_broken_sample=\"skip\"") as caught:
        list(open_contexts(dataset, tokenizer, FORMAT).contexts())
    assert caught.value.field == "dataset_path"
    reader = open_contexts(dataset, tokenizer, FORMAT, on_broken="skip").contexts()
    with pytest.warns(UserWarning, match="left out: .*" + message):
        found = list(reader)
    assert reader.skipped == 1
    good: Any = [{"text": text} for text in STORIES]
    if "row" in name or name in ("unknown ids", "array"):
        good = np.array(ROWS * 2)
    assert np.array_equal(found, list(open_contexts(good, tokenizer, FORMAT).contexts()))


def test_many_broken_samples_are_counted_and_a_few_named(
    tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    more = "".join("\n" + json.dumps({"text": text}) for text in STORIES * 5)
    path = write(tmp_path / "a.jsonl", lines(*["{"] * 9) + more)
    reader = open_contexts(path, tokenizer, FORMAT, on_broken="skip").contexts()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while next(reader, None) is not None:
            position = reader.position()
    assert reader.skipped == 9
    assert [str(w.message).split(":")[1] for w in caught] == [
        f" a.jsonl, line {n}" for n in (3, 4, 5)
    ]
    assert "further ones are only counted" in str(caught[-1].message)
    source = open_contexts(path, tokenizer, FORMAT, on_broken="skip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = source.contexts(position)
        assert sum(1 for _ in again) == 0
    assert again.skipped == 9


def test_a_file_that_is_no_parquet_or_ends_early_is_named(
    tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    whole = Path(table("text", STORIES * 50)(tmp_path))
    data = bytearray(whole.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = b"\0" * 400
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(data)
    with pytest.raises(DatasetError, match=r"broken\.parquet, row group \d+: cannot be read"):
        list(open_contexts(str(broken), tokenizer, FORMAT, on_broken="skip").contexts())
    broken.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=r"broken\.parquet is no Parquet file"):
        open_contexts(str(broken), tokenizer, FORMAT)


class LostConnectionError(Exception):
    """As a library of the network may raise it."""


class Lost:
    def __iter__(self) -> Iterator[dict[str, str]]:
        yield {"text": STORIES[0]}
        raise LostConnectionError("no route to host")


def test_a_stream_that_breaks_off_is_named(tokenizer: LMTokenizer) -> None:
    source = open_contexts(Lost(), tokenizer, FORMAT, on_broken="skip")
    with pytest.raises(
        DatasetError, match=r"the data set, row 1: cannot be read \(LostConn.*route"
    ):
        list(source.contexts())


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("nowhere/*.jsonl", {}, r"no file nowhere/\*\.jsonl"),
        (iter([{"text": "a"}]), {}, "can be read only once"),
        (3, {}, "int, expected a data set"),
        (datasets.DatasetDict({"a": datasets.Dataset.from_dict({"text": []})}), {}, "splits a"),
        (
            datasets.Dataset.from_dict({"text": ["a"]}),
            {"column": "story"},
            "dataset_column: the data set has the columns text; expected story",
        ),
    ],
)
def test_a_data_set_that_cannot_be_opened_is_named(
    dataset: Any, options: dict[str, Any], message: str, tokenizer: LMTokenizer
) -> None:
    with pytest.raises(DatasetError, match=message):
        open_contexts(dataset, tokenizer, FORMAT, **options)


def test_the_kind_of_a_column_asked_for_is_seen_from_its_values(
    tokenizer: LMTokenizer,
) -> None:
    rows = datasets.Dataset.from_dict({"text": STORIES[:3], "ids": ROWS, "story": STORIES[3:6]})
    ids = open_contexts(rows, tokenizer, FORMAT, column="ids")
    assert [list(c) for c in ids.contexts()] == ROWS
    story_ = open_contexts(rows, tokenizer, FORMAT, column="story")
    text = open_contexts([{"text": t} for t in STORIES[3:6]], tokenizer, FORMAT)
    assert np.array_equal(list(story_.contexts()), list(text.contexts()))
