"""The connection that all methods share."""

# A timeout here is the deadline of the call, which the server sees too.
# ruff: noqa: ASYNC109

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from saekit.v1 import sae_service_pb2
from saekit.v1.registry_service_pb2_grpc import RegistryServiceStub
from saekit.v1.sae_service_pb2_grpc import SAEServiceStub
from saekit_client import health, requests
from saekit_client.channel import DEFAULT_ADDRESS, TLS, Connection, RetryPolicy, Timeouts
from saekit_client.errors import UnavailableError, from_rpc_error
from saekit_client.options import InputOptions
from saekit_client.requests import SAEs

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class AsyncCalls:
    """A channel, its stubs, and how calls are made on it."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        tls: TLS | None = None,
        token: str | None = None,
        model: str | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Prepares the connection, without waiting for the server.

        Args:
            address: `host:port` or any other gRPC target; a name with several addresses is used
                round-robin.
            tls: encrypt the channel.
            token: bearer token of every call.
            model: refuse to be served by any other model.
            timeouts: deadlines of calls that are given no other.
            retry: repeats of calls that change nothing.
        """
        self.connection = Connection(
            address, tls, token, model, timeouts or Timeouts(), retry or RetryPolicy()
        )
        credentials = self.connection.credentials()
        options = self.connection.options()
        self._channel = (
            grpc.aio.secure_channel(address, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(address, options)
        )
        self._sae = SAEServiceStub(self._channel)
        self._registry = RegistryServiceStub(self._channel)
        self._health: Any = self._channel.unary_unary(health.CHECK)

    async def connect(self) -> None:
        """Waits until the server answers or `timeouts.connect` has passed.

        Raises:
            UnavailableError: nobody answers there.
        """
        timeout = self.connection.timeouts.connect
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError:
            await self.close()
            raise UnavailableError(
                f"no server answers at {self.connection.address} within {timeout:g} s"
            ) from None

    async def __aenter__(self) -> Self:
        if self.connection.timeouts.connect is not None:
            await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what runs and closes the connection."""
        await self._channel.close()

    def _encode_options(self, saes: SAEs, options: InputOptions) -> sae_service_pb2.EncodeOptions:
        return requests.encode_options(saes, options, self.connection.model)

    async def _unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout: float | None,
    ) -> Response:
        limit = self.connection.timeouts.unary if timeout is None else timeout
        try:
            return await method(request, timeout=limit, metadata=self.connection.metadata())
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _call(self, method: Any) -> Any:
        """A method as a function of request(s) and seconds."""
        metadata = self.connection.metadata()
        return lambda request, timeout: method(request, timeout=timeout, metadata=metadata)

    def _stream_timeout(self, timeout: float | None) -> float | None:
        return self.connection.timeouts.stream if timeout is None else timeout
