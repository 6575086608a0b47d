"""Where the tokens come from: text files, JSONL, token arrays, Hugging Face data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast, runtime_checkable

import numpy as np

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import Tokens, cut_documents, cut_stream, pack_documents

DOCUMENT_SEPARATOR: Final = "<|endoftext|>"
Separator = int | Literal["default", "bos", "eos", "sep"] | None
"""What stands between documents: a token id, the special token of that name if the tokenizer has
one, or nothing. By default the BOS where contexts begin with it, else the EOS."""

_TOKEN_COLUMNS: Final = ("tokens", "input_ids")
_TEXT_COLUMNS: Final = ("text", "content", "problem")


@dataclass(frozen=True)
class ContextFormat:
    """What a context looks like."""

    size: int
    """Tokens, BOS included."""
    prepend_bos: bool
    separator: Separator = "default"
    """Between the documents that share a context; of text only, as the rest is separated."""
    concatenate: bool = True
    """Whether documents of text are packed; else each that is long enough gives one context."""


@runtime_checkable
class ContextSource(Protocol):
    """Contexts in a fixed order, as often as asked for."""

    def contexts(self) -> Iterator[Tokens]:
        """One pass: int64 ``[context_size]`` each."""


@dataclass(frozen=True)
class TextContexts:
    """Documents of text, tokenised as they are read."""

    documents: Iterable[str]
    """Iterable as often as passes are made."""
    tokenizer: LMTokenizer
    format: ContextFormat

    def contexts(self) -> Iterator[Tokens]:
        rows = (
            self.tokenizer.encode_text(text, prepend_bos=False).ids
            for text in self.documents
            if text.strip()
        )
        return _packed(rows, self.tokenizer, self.format)


@dataclass(frozen=True)
class TokenRowContexts:
    """Rows of token ids that are contexts already; longer ones are cut to size."""

    rows: Iterable[Tokens]
    format: ContextFormat
    d_vocab: int

    def contexts(self) -> Iterator[Tokens]:
        for i, row in enumerate(self.rows):
            ids = np.asarray(row)
            if len(ids) < self.format.size:
                raise DatasetError(
                    f"dataset_path: row {i} has {len(ids)} tokens, fewer than "
                    f"context_size={self.format.size}",
                    field="context_size",
                )
            yield _checked(ids[: self.format.size], self.d_vocab, where=f"row {i}")


@dataclass(frozen=True)
class TokenStreamContexts:
    """One long row of token ids, separated already where documents end."""

    stream: Tokens
    tokenizer: LMTokenizer
    format: ContextFormat

    def contexts(self) -> Iterator[Tokens]:
        if not self.format.concatenate:
            raise DatasetError(
                "disable_concat_sequences: one stream of tokens does not say where documents end",
                field="disable_concat_sequences",
            )
        stream = _checked(self.stream, self.tokenizer.d_vocab, where="the array")
        bos = _bos(self.tokenizer, self.format)
        return cut_stream(stream, context_size=self.format.size, bos=bos)


@dataclass(frozen=True)
class TextFile:
    """A UTF-8 file; documents are separated by lines `<|endoftext|>`, if it has any."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        lines: list[str] = []
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip() == DOCUMENT_SEPARATOR:
                    yield "".join(lines).strip()
                    lines = []
                else:
                    lines.append(line)
        if lines:
            yield "".join(lines).strip()


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object per line; the text is in one of its usual fields."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    name = next(c for c in _TEXT_COLUMNS if c in record)
                except (ValueError, TypeError, StopIteration):
                    raise DatasetError(
                        f"{self.path.name}: line {number} is no JSON object with one of "
                        f"{', '.join(_TEXT_COLUMNS)}",
                        field="dataset_path",
                    ) from None
                yield str(record[name])


@dataclass(frozen=True)
class Column:
    """One column of a Hugging Face data set."""

    rows: Iterable[Mapping[str, Any]]
    name: str

    def __iter__(self) -> Iterator[Any]:
        return (row[self.name] for row in self.rows)


def open_contexts(
    dataset: str | Path | np.ndarray[Any, Any] | Any,
    tokenizer: LMTokenizer,
    format: ContextFormat,
    *,
    split: str = "train",
    streaming: bool = True,
) -> ContextSource:
    """Contexts of `dataset`.

    Args:
        dataset: a path to a .txt, .jsonl or .npy file, a Hugging Face data set (name, local
            folder, or object), a `ContextSource`, or an array of token ids: ``[rows, length]`` of
            contexts, or ``[length]`` of one stream.
        tokenizer: turns text into ids.
        format: of the contexts.
        split, streaming: how a named Hugging Face data set is opened.

    Raises:
        DatasetError: there is no such data set, or it has no usable column.
    """
    if isinstance(dataset, ContextSource):
        return dataset
    if isinstance(dataset, str | Path):
        path = Path(dataset)
        suffix = path.suffix.lower()
        if suffix in (".txt", ".jsonl", ".npy"):
            if not path.is_file():
                raise DatasetError(f"dataset_path: no file {path}", field="dataset_path")
            if suffix == ".npy":
                dataset = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                file = TextFile(path) if suffix == ".txt" else JsonLines(path)
                return TextContexts(file, tokenizer, format)
        else:
            dataset = _load_dataset(str(dataset), split=split, streaming=streaming)
    if isinstance(dataset, np.ndarray):
        return _array_contexts(dataset, tokenizer, format)
    return _dataset_contexts(dataset, tokenizer, format)


def _array_contexts(
    array: np.ndarray[Any, Any], tokenizer: LMTokenizer, format_: ContextFormat
) -> ContextSource:
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
        raise DatasetError(
            f"dataset_path: an array of {array.dtype} with {array.ndim} axes; expected integers, "
            "[rows, length] or [length]",
            field="dataset_path",
        )
    if array.ndim == 1:
        return TokenStreamContexts(array, tokenizer, format_)
    return TokenRowContexts(cast(Iterable[Tokens], array), format_, tokenizer.d_vocab)


def _dataset_contexts(rows: Any, tokenizer: LMTokenizer, format_: ContextFormat) -> ContextSource:
    names = getattr(rows, "column_names", None)
    if names is None:
        first: Mapping[str, Any] = next(iter(rows), {})
        names = list(first)
    for name in _TOKEN_COLUMNS:
        if name in names:
            return TokenRowContexts(Column(rows, name), format_, tokenizer.d_vocab)
    for name in _TEXT_COLUMNS:
        if name in names:
            return TextContexts(Column(rows, name), tokenizer, format_)
    raise DatasetError(
        f"dataset_path: columns {', '.join(names) or 'none'}; expected one of "
        f"{', '.join((*_TOKEN_COLUMNS, *_TEXT_COLUMNS))}",
        field="dataset_path",
    )


def _load_dataset(name: str, *, split: str, streaming: bool) -> Any:
    import datasets

    try:
        if Path(name).is_dir() and (
            (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file()
        ):
            saved = datasets.load_from_disk(name)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"dataset_path: cannot open {name!r} ({error})", field="dataset_path"
        ) from error


def _packed(
    rows: Iterator[Tokens], tokenizer: LMTokenizer, format_: ContextFormat
) -> Iterator[Tokens]:
    bos = _bos(tokenizer, format_)
    if not format_.concatenate:
        return cut_documents(rows, context_size=format_.size, bos=bos)
    separator = _separator(tokenizer, format_)
    return pack_documents(rows, context_size=format_.size, bos=bos, separator=separator)


def _separator(tokenizer: LMTokenizer, format_: ContextFormat) -> int | None:
    asked = format_.separator
    if isinstance(asked, int):
        if not 0 <= asked < tokenizer.d_vocab:
            raise DatasetError(
                f"sequence_separator_token: {asked} is not in 0..{tokenizer.d_vocab - 1}",
                field="sequence_separator_token",
            )
        return asked
    if asked == "bos" or (asked == "default" and format_.prepend_bos):
        return tokenizer.bos_id
    if asked in ("eos", "default"):
        return tokenizer.eos_ids[0] if tokenizer.eos_ids else None
    if asked == "sep":
        sep: int | None = tokenizer.hf.sep_token_id
        return sep
    if asked is None:
        return None
    raise DatasetError(
        f"sequence_separator_token: {asked!r}; expected a token id, bos, eos, sep or None",
        field="sequence_separator_token",
    )


def _bos(tokenizer: LMTokenizer, format_: ContextFormat) -> int | None:
    if not format_.prepend_bos:
        return None
    if tokenizer.bos_id is None:
        raise DatasetError("prepend_bos: the model's tokenizer has no BOS", field="prepend_bos")
    return tokenizer.bos_id


def _checked(ids: np.ndarray[Any, Any], d_vocab: int, *, where: str) -> Tokens:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < d_vocab:
        raise DatasetError(
            f"dataset_path: {where} has token ids in {ids.min()}..{ids.max()}; the model knows "
            f"0..{d_vocab - 1}",
            field="dataset_path",
        )
    return ids.astype(np.int64)
