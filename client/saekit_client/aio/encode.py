"""Encode and Decode."""

# A timeout here is the deadline of the call, which the server sees too.
# ruff: noqa: ASYNC109

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import overload

from saekit.v1 import sae_service_pb2
from saekit_client import requests, responses
from saekit_client.aio.calls import AsyncCalls
from saekit_client.aio.streams import AsyncBidiStream
from saekit_client.batch import Batch, StreamItem
from saekit_client.inputs import AnyInputs, OneInput, is_one, several_async
from saekit_client.options import DEFAULT_INPUT, FloatType, InputOptions, Priority
from saekit_client.progress import with_progress_async
from saekit_client.requests import SAEs
from saekit_client.results import DecodeResult, EncodeResult
from saekit_client.stream_requests import (
    Decodable,
    asynchronous,
    decode_items,
    decode_message,
    encode_items,
)
from saekit_client.stream_state import DEFAULT_WINDOW, StreamState


class AsyncEncodeCalls(AsyncCalls):
    """Feature activations, and back."""

    @overload
    async def encode(  # type: ignore[overload-overlap]
        self,
        inputs: OneInput,
        saes: SAEs,
        *,
        options: InputOptions = ...,
        window: int = ...,
        progress: bool | None = ...,
        timeout: float | None = ...,
    ) -> EncodeResult: ...
    @overload
    async def encode(
        self,
        inputs: AnyInputs,
        saes: SAEs,
        *,
        options: InputOptions = ...,
        window: int = ...,
        progress: bool | None = ...,
        timeout: float | None = ...,
    ) -> Batch[EncodeResult]: ...
    async def encode(
        self,
        inputs: OneInput | AnyInputs,
        saes: SAEs,
        *,
        options: InputOptions = DEFAULT_INPUT,
        window: int = DEFAULT_WINDOW,
        progress: bool | None = None,
        timeout: float | None = None,
    ) -> EncodeResult | Batch[EncodeResult]:
        """As `Client.encode`."""
        if is_one(inputs):
            request = sae_service_pb2.EncodeRequest(
                inputs=[requests.input_message(inputs)], options=self._encode_options(saes, options)
            )
            return responses.encode_result(await self._unary(self._sae.Encode, request, timeout))
        items = self.encode_stream(
            several_async(inputs), saes, options=options, window=window, timeout=timeout
        )
        return Batch([i async for i in with_progress_async(items, "encode", inputs, progress)])

    def encode_stream(
        self,
        inputs: AnyInputs,
        saes: SAEs,
        *,
        options: InputOptions = DEFAULT_INPUT,
        window: int = DEFAULT_WINDOW,
        ordered: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[StreamItem[EncodeResult]]:
        """As `Client.encode_stream`."""
        first = sae_service_pb2.EncodeStreamRequest(options=self._encode_options(saes, options))
        state = StreamState(
            responses.parse_encode, window=window, ordered=ordered, retry=self.connection.retry
        )
        return AsyncBidiStream(
            self._call(self._sae.EncodeStream),
            first,
            asynchronous(encode_items, inputs),
            state,
            self._stream_timeout(timeout),
        ).items()

    @overload
    async def decode(
        self,
        features: Decodable,
        *,
        dtype: FloatType = ...,
        priority: Priority | None = ...,
        window: int = ...,
        progress: bool | None = ...,
        timeout: float | None = ...,
    ) -> DecodeResult: ...
    @overload
    async def decode(
        self,
        features: Iterable[Decodable] | AsyncIterable[Decodable],
        *,
        dtype: FloatType = ...,
        priority: Priority | None = ...,
        window: int = ...,
        progress: bool | None = ...,
        timeout: float | None = ...,
    ) -> Batch[DecodeResult]: ...
    async def decode(
        self,
        features: Decodable | Iterable[Decodable] | AsyncIterable[Decodable],
        *,
        dtype: FloatType = "float32",
        priority: Priority | None = None,
        window: int = DEFAULT_WINDOW,
        progress: bool | None = None,
        timeout: float | None = None,
    ) -> DecodeResult | Batch[DecodeResult]:
        """As `Client.decode`."""
        if isinstance(features, Decodable):
            request = sae_service_pb2.DecodeRequest(
                items=[decode_message(features)],
                options=requests.decode_options(dtype, priority, self.connection.model),
            )
            return responses.decode_result(await self._unary(self._sae.Decode, request, timeout))
        items = self.decode_stream(
            features, dtype=dtype, priority=priority, window=window, timeout=timeout
        )
        return Batch([i async for i in with_progress_async(items, "decode", features, progress)])

    def decode_stream(
        self,
        features: Iterable[Decodable] | AsyncIterable[Decodable],
        *,
        dtype: FloatType = "float32",
        priority: Priority | None = None,
        window: int = DEFAULT_WINDOW,
        ordered: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[StreamItem[DecodeResult]]:
        """As `Client.decode_stream`."""
        options = requests.decode_options(dtype, priority, self.connection.model)
        state = StreamState(
            responses.parse_decode, window=window, ordered=ordered, retry=self.connection.retry
        )
        return AsyncBidiStream(
            self._call(self._sae.DecodeStream),
            sae_service_pb2.DecodeStreamRequest(options=options),
            asynchronous(decode_items, features),
            state,
            self._stream_timeout(timeout),
        ).items()
