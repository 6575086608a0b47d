"""Inputs of a request to tokens: BOS, length limits, windows."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from saekit.v1 import input_pb2 as pb
from saekit_core.lm.chat import ChatMessage
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.tokenizer import LMTokenizer, Tokenized
from saekit_server.errors import at_field, invalid
from saekit_server.wire.fields import at_wire_field

# A hop to the pool costs about as much as tokenising this many bytes.
_INLINE_BYTES = 2_000
_MAX_ID_BYTES = 256


@dataclass(frozen=True)
class Options:
    """How inputs become tokens.

    prepend_bos: text only; None for the model's default.
    over_length: OverLength of the wire; UNSPECIFIED is ERROR.
    limit: longest row, tokens.
    generation_prompt: default of a chat's `add_generation_prompt`.
    allow_activations: whether activations are an input here.
    keep_last: truncation keeps the last tokens (and the BOS) instead of the first.
    """

    prepend_bos: bool | None
    over_length: "pb.OverLength"
    limit: int
    generation_prompt: bool = False
    allow_activations: bool = False
    keep_last: bool = False


@dataclass(frozen=True)
class Row:
    """One row for the model: an input, or a window of one."""

    tokenized: Tokenized
    window_index: int = 0
    window_start: int = 0
    truncated: bool = False


class InputReader:
    """Tokenises inputs, in a pool when they are long."""

    def __init__(self, model: LanguageModel, pool: ThreadPoolExecutor) -> None:
        self._tokenizer = model.tokenizer
        self._pool = pool

    async def rows(self, inputs: Sequence[pb.Input], options: Options) -> list[list[Row]]:
        """The rows of each input; none for activations, which are no tokens.

        Raises:
            DomainError: an input that cannot be read, naming it as `inputs[i]`.
        """
        if sum(item.ByteSize() for item in inputs) <= _INLINE_BYTES:
            return self._all_rows(inputs, options)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._all_rows, inputs, options)

    async def one(self, item: pb.Input, options: Options) -> list[Row]:
        """The rows of a single input, as `rows`, with fields named from the input on."""
        if item.ByteSize() <= _INLINE_BYTES:
            return self._input_rows(item, options)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._input_rows, item, options)

    def _all_rows(self, inputs: Sequence[pb.Input], options: Options) -> list[list[Row]]:
        rows = []
        for i, item in enumerate(inputs):
            with at_field(f"inputs[{i}]"):
                rows.append(self._input_rows(item, options))
        return rows

    def _input_rows(self, item: pb.Input, options: Options) -> list[Row]:
        if len(item.id.encode()) > _MAX_ID_BYTES:
            raise invalid("id", f"at most {_MAX_ID_BYTES} bytes, got {len(item.id.encode())}")
        content = item.WhichOneof("content")
        if content == "activations" and options.allow_activations:
            return []
        if content is None:
            raise invalid("content", "expected text, chat, tokens or activations")
        tokenized = tokenize(self._tokenizer, item, options)
        if len(tokenized.ids) <= options.limit:
            return [Row(tokenized)]
        match options.over_length:
            case pb.OVER_LENGTH_TRUNCATE:
                return [Row(_truncate(tokenized, options), truncated=True)]
            case pb.OVER_LENGTH_WINDOWS:
                return list(_windows(tokenized, options.limit))
            case _:
                raise invalid(
                    content,
                    f"{len(tokenized.ids)} tokens, above the limit of {options.limit}; set "
                    "over_length to cut it",
                )


def tokenize(tokenizer: LMTokenizer, item: pb.Input, options: Options) -> Tokenized:
    """Tokens of a text, a chat or token ids.

    Raises:
        DomainError: no content, or content that gives no tokens.
    """
    match item.WhichOneof("content"):
        case "text":
            if not item.text:
                raise invalid("text", "is empty")
            with at_field(""):
                return tokenizer.encode_text(item.text, options.prepend_bos)
        case "chat":
            if not item.chat.messages:
                raise invalid("chat.messages", "expected at least one message")
            for i, message in enumerate(item.chat.messages):
                if not message.role:
                    raise invalid(f"chat.messages[{i}].role", "must not be empty")
            opening = (
                item.chat.add_generation_prompt
                if item.chat.HasField("add_generation_prompt")
                else options.generation_prompt
            )
            with at_field(""):
                return tokenizer.encode_chat(
                    [ChatMessage(m.role, m.content) for m in item.chat.messages],
                    add_generation_prompt=opening,
                )
        case "tokens":
            if not item.tokens.ids:
                raise invalid("tokens.ids", "expected at least one")
            with at_wire_field("", {"tokens[": "tokens.ids["}):
                return tokenizer.from_ids(np.array(item.tokens.ids, dtype=np.int64))
        case _:
            raise invalid("activations", "this call runs the model; it takes text, chat or tokens")


def cut(tokenized: Tokenized, start: int, stop: int, *, repeat_bos: bool = False) -> Tokenized:
    """Positions start..stop, with the BOS before them if asked for."""
    chosen = np.arange(start, stop)
    if repeat_bos:
        chosen = np.concatenate([[0], chosen])
    index = tokenized.message_index
    return replace(
        tokenized,
        ids=tokenized.ids[chosen],
        byte_offsets=tokenized.byte_offsets[chosen]
        if len(tokenized.byte_offsets)
        else tokenized.byte_offsets,
        special=tokenized.special[chosen],
        has_bos=tokenized.has_bos and (start == 0 or repeat_bos),
        message_index=None if index is None else index[chosen],
    )


def _truncate(tokenized: Tokenized, options: Options) -> Tokenized:
    if not options.keep_last:
        return cut(tokenized, 0, options.limit)
    n = len(tokenized.ids)
    repeat = tokenized.has_bos and options.limit > 1
    return cut(tokenized, n - options.limit + repeat, n, repeat_bos=repeat)


def _windows(tokenized: Tokenized, limit: int) -> "list[Row]":
    rows = [Row(cut(tokenized, 0, limit))]
    start = limit
    repeat = tokenized.has_bos and limit > 1
    step = limit - 1 if repeat else limit
    while start < len(tokenized.ids):
        stop = min(start + step, len(tokenized.ids))
        window = cut(tokenized, start, stop, repeat_bos=repeat)
        rows.append(Row(window, window_index=len(rows), window_start=start))
        start = stop
    return rows


def token_info(tokenizer: LMTokenizer, tokenized: Tokenized, *, pieces: bool) -> pb.TokenInfo:
    """The tokens as the caller sees them."""
    info = pb.TokenInfo(has_bos=tokenized.has_bos)
    info.ids.extend(tokenized.ids.tolist())
    info.byte_offsets.extend(tokenized.byte_offsets.ravel().tolist())
    info.special_positions.extend(np.flatnonzero(tokenized.special).tolist())
    if tokenized.message_index is not None:
        info.message_index.extend(tokenized.message_index.tolist())
    if pieces:
        info.pieces.extend(tokenizer.decode([token]) for token in tokenized.ids.tolist())
    return info


def check_over_length(over_length: "pb.OverLength") -> None:
    """Raises for windows, which only Encode can answer."""
    if over_length == pb.OVER_LENGTH_WINDOWS:
        raise invalid("over_length", "WINDOWS is for Encode; choose ERROR or TRUNCATE")
