"""The connection that all methods share."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
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


class Calls:
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
        """Connects, and waits until the server answers or `timeouts.connect` has passed.

        Args:
            address: `host:port` or any other gRPC target; a name with several addresses is used
                round-robin.
            tls: encrypt the channel.
            token: bearer token of every call.
            model: refuse to be served by any other model.
            timeouts: deadlines of calls that are given no other.
            retry: repeats of calls that change nothing.

        Raises:
            UnavailableError: nobody answers there.
        """
        self.connection = Connection(
            address, tls, token, model, timeouts or Timeouts(), retry or RetryPolicy()
        )
        credentials = self.connection.credentials()
        options = self.connection.options()
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._sae = SAEServiceStub(self._channel)
        self._registry = RegistryServiceStub(self._channel)
        self._health: Any = self._channel.unary_unary(health.CHECK)
        if self.connection.timeouts.connect is not None:
            self._wait_for_server(self.connection.timeouts.connect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what runs and closes the connection."""
        self._channel.close()

    def _encode_options(self, saes: SAEs, options: InputOptions) -> sae_service_pb2.EncodeOptions:
        return requests.encode_options(saes, options, self.connection.model)

    def _unary(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout: float | None,
    ) -> Response:
        limit = self.connection.timeouts.unary if timeout is None else timeout
        try:
            return method(request, timeout=limit, metadata=self.connection.metadata())
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _call(self, method: Any) -> Any:
        """A method as a function of request(s) and seconds."""
        metadata = self.connection.metadata()
        return lambda request, timeout: method(request, timeout=timeout, metadata=metadata)

    def _stream_timeout(self, timeout: float | None) -> float | None:
        return self.connection.timeouts.stream if timeout is None else timeout

    def _wait_for_server(self, timeout: float) -> None:
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=timeout)
        except grpc.FutureTimeoutError:
            ready.cancel()
            self.close()
            raise UnavailableError(
                f"no server answers at {self.connection.address} within {timeout:g} s"
            ) from None
