"""Where the tokens come from: text files, JSONL, Parquet, token arrays, Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.context_format import ContextFormat, Separator
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import Tokens
from saekit_trainer.samples.files import find_files
from saekit_trainer.samples.json_lines import JsonLines, parse_line
from saekit_trainer.samples.parquet_files import ParquetFiles, parquet_columns
from saekit_trainer.samples.reading import (
    BrokenSampleError,
    OnBrokenSample,
    Position,
    SampleSource,
)
from saekit_trainer.samples.rows import IndexedRows, StreamRows, TableRows, is_transformed
from saekit_trainer.samples.text_files import TextFiles
from saekit_trainer.text_contexts import TextContexts
from saekit_trainer.token_contexts import TokenRowContexts, TokenStreamContexts

__all__ = ["ContextFormat", "ContextReader", "ContextSource", "Separator", "open_contexts"]

_TOKEN_COLUMNS: Final = ("tokens", "input_ids")
_TEXT_COLUMNS: Final = ("text", "content", "problem")
_FILE_KINDS: Final = (".txt", ".jsonl", ".parquet", ".npy")


class ContextReader(Protocol):
    """One pass over contexts, an iterator of int64 ``[context_size]``."""

    @property
    def skipped(self) -> int:
        """Samples left out since the beginning of the pass, because they are broken."""

    def __iter__(self) -> ContextReader: ...
    def __next__(self) -> Tokens: ...

    def position(self) -> Position:
        """From where `ContextSource.contexts` goes on with the next context, as JSON values."""


@runtime_checkable
class ContextSource(Protocol):
    """Contexts in a fixed order, as often as asked for, from any place on."""

    @property
    def identity(self) -> Any:
        """JSON value that changes when positions lose their meaning: names, sizes."""

    def contexts(self, start: Position | None = None) -> ContextReader:
        """One pass, from its beginning or from an earlier position on."""


@runtime_checkable
class RememberingSource(ContextSource, Protocol):
    """A source that makes its contexts itself, and would not make the same ones again."""

    def memory(self) -> Any:
        """The contexts so far, as JSON values."""

    def remember(self, memory: Any) -> None:
        """Take over a `memory` of a source of the same `identity`."""


def open_contexts(
    dataset: str | Path | np.ndarray[Any, Any] | Any,
    tokenizer: LMTokenizer,
    format: ContextFormat,
    *,
    split: str = "train",
    streaming: bool = True,
    column: str | None = None,
    on_broken: OnBrokenSample = "stop",
) -> ContextSource:
    """Contexts of `dataset`.

    Args:
        dataset: .txt, .jsonl or .parquet files (a path or a glob), a .npy file, a Hugging Face data
            set (name, local folder, or object), any iterable of mappings, a `ContextSource`, or an
            array of token ids: ``[rows, length]`` of contexts, or ``[length]`` of one stream.
        tokenizer: turns text into ids.
        format: of the contexts.
        split, streaming: how a named Hugging Face data set is opened.
        column: the column or field to read, of text or of token ids; without it the first there is
            of tokens, input_ids, text, content and problem.
        on_broken: whether a sample that cannot be used ends the run, or is left out and counted.

    Raises:
        DatasetError: there is no such data set, or it has no usable column.
    """
    if isinstance(dataset, ContextSource):
        return dataset
    name = "the data set"
    if isinstance(dataset, str | Path):
        name, kind = str(dataset), Path(dataset).suffix.lower()
        if kind in _FILE_KINDS and not Path(dataset).is_dir():
            paths = find_files(dataset)
            if kind == ".txt":
                return TextContexts(TextFiles(paths), tokenizer, format, on_broken)
            if kind != ".npy":
                files, is_tokens = _columned_files(paths, kind, column)
                return _contexts_of(files, is_tokens, tokenizer, format, on_broken)
            if len(paths) > 1:
                raise DatasetError(
                    f"dataset_path: {len(paths)} .npy files, expected one", field="dataset_path"
                )
            dataset = _load_array(paths[0])
        else:
            dataset = _load_dataset(name, split=split, streaming=streaming)
    if isinstance(dataset, np.ndarray):
        return _array_contexts(dataset, tokenizer, format, on_broken)
    rows, is_tokens = _rows_of(dataset, name, column)
    return _contexts_of(rows, is_tokens, tokenizer, format, on_broken)


def _contexts_of(
    samples: SampleSource,
    is_tokens: bool,
    tokenizer: LMTokenizer,
    format_: ContextFormat,
    on_broken: OnBrokenSample,
) -> ContextSource:
    if is_tokens:
        return TokenRowContexts(samples, format_, tokenizer.d_vocab, on_broken)
    return TextContexts(samples, tokenizer, format_, on_broken)


def _columned_files(
    paths: tuple[Path, ...], kind: str, column: str | None
) -> tuple[SampleSource, bool]:
    if kind == ".parquet":
        names = parquet_columns(paths[0])
        chosen = _column(names, column, paths[0].name)
        files: SampleSource = ParquetFiles(paths, chosen)
    else:
        names = list(_first_record(paths[0]))
        chosen = _column(names, column, paths[0].name)
        files = JsonLines(paths, chosen)
    return files, _holds_tokens(chosen, files)


def _first_record(path: Path) -> Mapping[str, Any]:
    """The first object in a JSONL file; what is broken before it is for its reader to say."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    return parse_line(line)
                except BrokenSampleError:
                    continue
    raise DatasetError(f"dataset_path: {path.name} has no JSON object", field="dataset_path")


def _rows_of(dataset: Any, name: str, column: str | None) -> tuple[SampleSource, bool]:
    import datasets

    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DatasetError(
            f"dataset_path: a data set of the splits {', '.join(dataset)}; give one of them",
            field="dataset_path",
        )
    if not isinstance(dataset, Iterable) or isinstance(dataset, Iterator):
        why = ", which can be read only once" if isinstance(dataset, Iterator) else ""
        raise DatasetError(
            f"dataset_path: {type(dataset).__name__}{why}, expected a data set",
            field="dataset_path",
        )
    names = getattr(dataset, "column_names", None)
    if names is None or is_transformed(dataset):
        first: Mapping[str, Any] = next(iter(dataset), {})
        names = list(first)
    chosen = _column(names, column, name)
    if isinstance(dataset, datasets.Dataset):
        rows: SampleSource = TableRows(dataset, chosen, name)
    else:
        rows = StreamRows(dataset, chosen, name)
    return rows, _holds_tokens(chosen, rows)


def _column(names: Iterable[str], asked: str | None, where: str) -> str:
    there = list(names)
    wanted = (*_TOKEN_COLUMNS, *_TEXT_COLUMNS) if asked is None else (asked,)
    for name in wanted:
        if name in there:
            return name
    raise DatasetError(
        f"{'dataset_path' if asked is None else 'dataset_column'}: {where} has the columns "
        f"{', '.join(there) or 'none'}; expected {'one of ' if len(wanted) > 1 else ''}"
        f"{', '.join(wanted)}",
        field="dataset_path" if asked is None else "dataset_column",
    )


def _holds_tokens(column: str, samples: SampleSource) -> bool:
    """Whether a column is of token ids, by its name or else by its first value."""
    if column in (*_TOKEN_COLUMNS, *_TEXT_COLUMNS):
        return column in _TOKEN_COLUMNS
    reader = samples.read()
    while True:
        try:
            value = next(reader, None)
        except BrokenSampleError:
            continue
        return value is not None and not isinstance(value, str)


def _array_contexts(
    array: np.ndarray[Any, Any],
    tokenizer: LMTokenizer,
    format_: ContextFormat,
    on_broken: OnBrokenSample,
) -> ContextSource:
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
        raise DatasetError(
            f"dataset_path: an array of {array.dtype} with {array.ndim} axes; expected integers, "
            "[rows, length] or [length]",
            field="dataset_path",
        )
    if array.ndim == 1:
        return TokenStreamContexts(array, tokenizer, format_)
    return TokenRowContexts(IndexedRows(array, "the array"), format_, tokenizer.d_vocab, on_broken)


def _load_array(path: Path) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"dataset_path: {path} is no array that numpy loads ({error})", field="dataset_path"
        ) from error
    return array


def _load_dataset(name: str, *, split: str, streaming: bool) -> Any:
    import datasets

    try:
        if Path(name).is_dir() and (
            (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file()
        ):
            saved = datasets.load_from_disk(name)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(
            f"dataset_path: cannot open {name!r} ({error})", field="dataset_path"
        ) from error
