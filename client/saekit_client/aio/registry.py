"""The registry, the model and health."""

# A timeout here is the deadline of the call, which the server sees too.
# ruff: noqa: ASYNC109

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import overload

import grpc

from saekit.v1 import registry_service_pb2
from saekit_client import requests, responses
from saekit_client.aio.calls import AsyncCalls
from saekit_client.errors import from_rpc_error
from saekit_client.health import Health, request_bytes, state_of
from saekit_client.inputs import ManyInputs, OneInput, is_one, several
from saekit_client.registry_results import (
    Features,
    Loaded,
    ModelInfo,
    SAEDetails,
    SAEInfo,
    WatchEvent,
)
from saekit_client.results import Tokens


class AsyncRegistryCalls(AsyncCalls):
    """What is loaded and what is known of it."""

    async def list_saes(
        self, prefix: str = "", *, hook_name: str = "", timeout: float | None = None
    ) -> list[SAEInfo]:
        """As `Client.list_saes`."""
        request = registry_service_pb2.ListSAEsRequest(prefix=prefix, hook_name=hook_name)
        return responses.sae_list(await self._unary(self._registry.ListSAEs, request, timeout))

    async def get_sae(self, sae: str, *, timeout: float | None = None) -> SAEDetails:
        """As `Client.get_sae`."""
        request = registry_service_pb2.GetSAERequest(sae=sae)
        return SAEDetails.of(await self._unary(self._registry.GetSAE, request, timeout))

    async def load_sae(
        self,
        source: str,
        *,
        sae_id: str = "",
        replace: bool = False,
        pin: bool = False,
        expected_revision: str = "",
        timeout: float | None = None,
    ) -> Loaded:
        """As `Client.load_sae`."""
        request = registry_service_pb2.LoadSAERequest(
            source=source,
            sae_id=sae_id,
            replace=replace,
            pin=pin,
            expected_revision=expected_revision,
        )
        limit = self.connection.timeouts.load if timeout is None else timeout
        return responses.loaded(await self._unary(self._registry.LoadSAE, request, limit))

    async def unload_sae(self, sae: str, *, timeout: float | None = None) -> list[SAEInfo]:
        """As `Client.unload_sae`."""
        request = registry_service_pb2.UnloadSAERequest(sae=sae)
        return responses.unloaded(await self._unary(self._registry.UnloadSAE, request, timeout))

    async def watch_saes(
        self, prefix: str = "", *, timeout: float | None = None
    ) -> AsyncIterator[WatchEvent]:
        """As `Client.watch_saes`."""
        request = registry_service_pb2.WatchSAEsRequest(prefix=prefix)
        call = self._call(self._registry.WatchSAEs)(request, timeout)
        try:
            async for event in call:
                yield WatchEvent.of(event)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def get_model(
        self, *, hook_points: bool = False, timeout: float | None = None
    ) -> ModelInfo:
        """As `Client.get_model`."""
        request = registry_service_pb2.GetModelRequest(hook_points=hook_points)
        return ModelInfo.of(await self._unary(self._registry.GetModel, request, timeout))

    @overload
    async def tokenize(  # type: ignore[overload-overlap]
        self, inputs: OneInput, *, prepend_bos: bool | None = ..., timeout: float | None = ...
    ) -> Tokens: ...
    @overload
    async def tokenize(
        self, inputs: ManyInputs, *, prepend_bos: bool | None = ..., timeout: float | None = ...
    ) -> list[Tokens]: ...
    async def tokenize(
        self,
        inputs: OneInput | ManyInputs,
        *,
        prepend_bos: bool | None = None,
        timeout: float | None = None,
    ) -> Tokens | list[Tokens]:
        """As `Client.tokenize`."""
        one = is_one(inputs)
        request = requests.tokenize_request(
            [inputs] if is_one(inputs) else several(inputs), prepend_bos
        )
        tokens = responses.tokenize_results(
            await self._unary(self._registry.Tokenize, request, timeout)
        )
        return tokens[0] if one else tokens

    async def get_features(
        self,
        sae: str,
        indices: int | Sequence[int] = (),
        *,
        search: str = "",
        logit_lens: int = 0,
        neighbours: int = 0,
        examples: int = 0,
        timeout: float | None = None,
    ) -> Features:
        """As `Client.get_features`."""
        request = requests.features_request(
            sae,
            indices,
            search,
            logit_lens=logit_lens,
            neighbours=neighbours,
            examples=examples,
        )
        return Features.of(await self._unary(self._registry.GetFeatures, request, timeout))

    async def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """As `Client.health`."""
        check = self._call(self._health)
        limit = self.connection.timeouts.unary if timeout is None else timeout
        try:
            return state_of(await check(request_bytes(service), limit))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
