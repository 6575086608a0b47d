"""The items of streams as the stream drivers take them: an id, and what makes the message."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message

from saekit.codec import CSR, sparse_rows
from saekit.v1 import sae_service_pb2
from saekit_client.inputs import Input, OneInput
from saekit_client.requests import float_tensor, input_message
from saekit_client.results import EncodeState, Floats, SAEEncoding

T = TypeVar("T")
Make = Callable[[str], Message]


@dataclass(frozen=True, eq=False)
class DecodeItem:
    """Feature activations to decode."""

    features: CSR | Floats
    """[rows, d_sae], sparse or dense."""
    sae: str
    """sae_id or sae_id@revision."""
    state: EncodeState | None = None
    """As Encode returned it; needed by some normalisations and by hook points with heads."""
    id: str = ""
    """Free-form, returned with the result."""


Decodable = SAEEncoding | DecodeItem
"""An encoding decodes with the very revision that made it."""


def decode_message(item: Decodable, *, id: str | None = None) -> sae_service_pb2.DecodeItem:
    """A DecodeItem; `id` goes before the one it has.

    Raises:
        TypeError: nothing that can be decoded.
    """
    if isinstance(item, SAEEncoding):
        item = DecodeItem(item.activations, item.pin, item.state)
    elif not isinstance(item, DecodeItem):
        raise TypeError(f"expected an SAEEncoding or a DecodeItem, got {type(item).__name__}")
    message = sae_service_pb2.DecodeItem(id=item.id if id is None else id, sae=item.sae)
    if isinstance(item.features, CSR):
        message.sparse.CopyFrom(sparse_rows(item.features))
    else:
        message.dense.CopyFrom(float_tensor(np.asarray(item.features)))
    if item.state is not None:
        message.state.CopyFrom(item.state.message())
    return message


def encode_items(inputs: Iterable[OneInput]) -> Iterator[tuple[str, Make]]:
    """Items of EncodeStream."""
    return ((_id(content), partial(_encode, content)) for content in inputs)


def decode_items(items: Iterable[Decodable]) -> Iterator[tuple[str, Make]]:
    """Items of DecodeStream."""
    return ((_id(item), partial(_decode, item)) for item in items)


def run_items(inputs: Iterable[OneInput]) -> Iterator[tuple[str, Make]]:
    """Items of RunWithSAEsStream."""
    return ((_id(content), partial(_run, content)) for content in inputs)


async def asynchronous(
    items: Callable[[Iterable[T]], Iterator[tuple[str, Make]]],
    inputs: Iterable[T] | AsyncIterable[T],
) -> AsyncIterator[tuple[str, Make]]:
    """The items of plain or asynchronous inputs."""
    if isinstance(inputs, AsyncIterable):
        async for content in inputs:
            yield next(items([content]))
    else:
        for item in items(inputs):
            yield item


def _encode(content: OneInput, wire_id: str) -> Message:
    return sae_service_pb2.EncodeStreamRequest(input=input_message(content, id=wire_id))


def _decode(item: Decodable, wire_id: str) -> Message:
    return sae_service_pb2.DecodeStreamRequest(item=decode_message(item, id=wire_id))


def _run(content: OneInput, wire_id: str) -> Message:
    return input_message(content, id=wire_id)


def _id(item: Any) -> str:
    return item.id if isinstance(item, Input | DecodeItem) else ""
