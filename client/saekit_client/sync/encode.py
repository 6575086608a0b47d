"""Encode and Decode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload

from saekit.v1 import sae_service_pb2
from saekit_client import requests, responses
from saekit_client.batch import Batch, StreamItem
from saekit_client.inputs import ManyInputs, OneInput, is_one, several
from saekit_client.options import DEFAULT_INPUT, FloatType, InputOptions, Priority
from saekit_client.progress import with_progress
from saekit_client.requests import SAEs
from saekit_client.results import DecodeResult, EncodeResult
from saekit_client.stream_requests import Decodable, decode_items, decode_message, encode_items
from saekit_client.stream_state import DEFAULT_WINDOW, StreamState
from saekit_client.sync.calls import Calls
from saekit_client.sync.streams import BidiStream


class EncodeCalls(Calls):
    """Feature activations, and back."""

    @overload
    def encode(  # type: ignore[overload-overlap]
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
    def encode(
        self,
        inputs: ManyInputs,
        saes: SAEs,
        *,
        options: InputOptions = ...,
        window: int = ...,
        progress: bool | None = ...,
        timeout: float | None = ...,
    ) -> Batch[EncodeResult]: ...
    def encode(
        self,
        inputs: OneInput | ManyInputs,
        saes: SAEs,
        *,
        options: InputOptions = DEFAULT_INPUT,
        window: int = DEFAULT_WINDOW,
        progress: bool | None = None,
        timeout: float | None = None,
    ) -> EncodeResult | Batch[EncodeResult]:
        """Feature activations.

        Args:
            inputs: a text, chat, list of token ids or array of activations; or several.
            saes: sae_ids or queries.
            options: how the inputs are read.
            window: with several inputs, how many are under way at once.
            progress: with several inputs, show a bar; None: on a terminal.
            timeout: seconds for everything.
        """
        if is_one(inputs):
            request = sae_service_pb2.EncodeRequest(
                inputs=[requests.input_message(inputs)], options=self._encode_options(saes, options)
            )
            return responses.encode_result(self._unary(self._sae.Encode, request, timeout))
        items = self.encode_stream(
            several(inputs), saes, options=options, window=window, timeout=timeout
        )
        return Batch(list(with_progress(items, "encode", inputs, progress)))

    def encode_stream(
        self,
        inputs: ManyInputs,
        saes: SAEs,
        *,
        options: InputOptions = DEFAULT_INPUT,
        window: int = DEFAULT_WINDOW,
        ordered: bool = False,
        timeout: float | None = None,
    ) -> Iterator[StreamItem[EncodeResult]]:
        """Feature activations of any number of inputs, as they are ready.

        Inputs are read as the window allows, so that both sides may be endless. What failed as
        UNAVAILABLE is sent again, also when the server goes away and another one takes over.

        Args:
            inputs: read in another thread.
            saes: sae_ids or queries.
            options: how the inputs are read.
            window: how many inputs are under way at once.
            ordered: hand results out in the order of the inputs.
            timeout: seconds for everything.

        Returns:
            An iterator of outcomes. Closing it cancels the call.
        """
        first = sae_service_pb2.EncodeStreamRequest(options=self._encode_options(saes, options))
        state = StreamState(
            responses.parse_encode, window=window, ordered=ordered, retry=self.connection.retry
        )
        return BidiStream(
            self._call(self._sae.EncodeStream),
            first,
            encode_items(inputs),
            state,
            self._stream_timeout(timeout),
        ).items()

    @overload
    def decode(
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
    def decode(
        self,
        features: Iterable[Decodable],
        *,
        dtype: FloatType = ...,
        priority: Priority | None = ...,
        window: int = ...,
        progress: bool | None = ...,
        timeout: float | None = ...,
    ) -> Batch[DecodeResult]: ...
    def decode(
        self,
        features: Decodable | Iterable[Decodable],
        *,
        dtype: FloatType = "float32",
        priority: Priority | None = None,
        window: int = DEFAULT_WINDOW,
        progress: bool | None = None,
        timeout: float | None = None,
    ) -> DecodeResult | Batch[DecodeResult]:
        """Activations that feature activations stand for.

        Args:
            features: an encoding (asked for with `return_state=True` where the SAE's normalisation
                needs it), or a DecodeItem; or several.
            dtype: element type on the wire.
            priority: None: interactive for one, batch for several.
            window: with several, how many are under way at once.
            progress: with several, show a bar; None: on a terminal.
            timeout: seconds for everything.
        """
        if isinstance(features, Decodable):
            request = sae_service_pb2.DecodeRequest(
                items=[decode_message(features)],
                options=requests.decode_options(dtype, priority, self.connection.model),
            )
            return responses.decode_result(self._unary(self._sae.Decode, request, timeout))
        items = self.decode_stream(
            features, dtype=dtype, priority=priority, window=window, timeout=timeout
        )
        return Batch(list(with_progress(items, "decode", features, progress)))

    def decode_stream(
        self,
        features: Iterable[Decodable],
        *,
        dtype: FloatType = "float32",
        priority: Priority | None = None,
        window: int = DEFAULT_WINDOW,
        ordered: bool = False,
        timeout: float | None = None,
    ) -> Iterator[StreamItem[DecodeResult]]:
        """Activations of any number of feature activations, as `encode_stream`."""
        options = requests.decode_options(dtype, priority, self.connection.model)
        state = StreamState(
            responses.parse_decode, window=window, ordered=ordered, retry=self.connection.retry
        )
        return BidiStream(
            self._call(self._sae.DecodeStream),
            sae_service_pb2.DecodeStreamRequest(options=options),
            decode_items(features),
            state,
            self._stream_timeout(timeout),
        ).items()
