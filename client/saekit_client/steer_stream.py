"""Events of a running generation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any

import grpc

from saekit_client.errors import from_rpc_error
from saekit_client.steer_events import Generation, SteerEvent, event_of, generations


class SteerStream(Iterator[SteerEvent]):
    """The events as they come; `close` cancels the generation on the server.

    Also a context manager that closes at its end. Iterating raises SAEKitError if the call fails.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._closed = False

    def __next__(self) -> SteerEvent:
        if self._closed:
            raise StopIteration
        try:
            return event_of(next(self._call))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def generations(self) -> list[Generation]:
        """Waits for the rest and gives every choice whole, each followed by its baseline."""
        return generations(self)

    def close(self) -> None:
        """Ends the generation."""
        self._closed = True
        self._call.cancel()

    def __enter__(self) -> SteerStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._call.cancel()


class AsyncSteerStream(AsyncIterator[SteerEvent]):
    """As `SteerStream`, for asyncio."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._events = aiter(call)
        self._closed = False

    async def __anext__(self) -> SteerEvent:
        if self._closed:
            raise StopAsyncIteration
        try:
            return event_of(await anext(self._events))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def generations(self) -> list[Generation]:
        """Waits for the rest and gives every choice whole, each followed by its baseline."""
        return generations([event async for event in self])

    async def aclose(self) -> None:
        """Ends the generation."""
        self._closed = True
        self._call.cancel()

    async def __aenter__(self) -> AsyncSteerStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
