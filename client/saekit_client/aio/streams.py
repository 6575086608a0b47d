"""Drives the items of a stream over asyncio gRPC calls."""

# A timeout here is the deadline of the call, which the server sees too.
# ruff: noqa: ASYNC109

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message

from saekit_client.batch import StreamItem
from saekit_client.errors import SAEKitError, UnavailableError, from_rpc_error
from saekit_client.stream_state import StreamState
from saekit_client.sync.streams import Deadline, OpenCall

R = TypeVar("R")
_LISTEN_S = 0.05
AsyncSource = AsyncIterator[tuple[str, Callable[[str], Message]]]
"""The caller's inputs: an id, and what makes the message of the id on the wire."""


class AsyncBidiStream(Generic[R]):
    """EncodeStream and DecodeStream: inputs go out while results come in."""

    def __init__(
        self,
        open_call: OpenCall,
        first: Message,
        source: AsyncSource,
        state: StreamState[R],
        timeout: float | None,
    ) -> None:
        self._open_call = open_call
        self._first = first
        self._source = source
        self._state = state
        self._deadline = Deadline(timeout)
        self._changed = asyncio.Event()
        self._call_number = 0
        self._ended = asyncio.Event()  # the call has
        self._source_error: BaseException | None = None

    async def items(self) -> AsyncGenerator[StreamItem[R], None]:
        """The outcomes, as they are ready or in order. Closing the iterator cancels the call.

        Raises:
            SAEKitError: the whole stream failed.
        """
        # A task of its own: cancelling a call's requests must not cancel the caller's iterator.
        reader = asyncio.create_task(self._read())
        try:
            while not self._state.done:
                async with contextlib.aclosing(self._one_call()) as items:
                    async for item in items:
                        yield item
            for item in self._state.ready():
                yield item
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _one_call(self) -> AsyncGenerator[StreamItem[R], None]:
        """Results until the call ends and another one may be made."""
        state = self._state
        self._ended = asyncio.Event()
        call = self._open_call(self._requests(self._call_number), self._deadline.left())
        try:
            async for frame in call:
                ready = state.ready(state.receive(frame, time.monotonic()))
                self._wake()
                for item in ready:
                    yield item
        except grpc.RpcError as error:
            failure = _failure(error)
            wait = state.resume_in(failure, time.monotonic())
            if wait is None:
                raise failure from error
            await asyncio.sleep(wait)
            return
        finally:
            self._call_number += 1  # what sends for this call ends
            self._ended.set()
            self._wake()
            call.cancel()
        if self._source_error is not None:
            raise self._source_error
        if not state.done:
            raise state.unfinished()

    async def _requests(self, call_number: int) -> AsyncIterator[Message]:
        yield self._first
        # A call that fails mostly does so now: see _failure for why to wait for that.
        await _within(_LISTEN_S * 4**self._state.broken, self._ended)
        while self._call_number == call_number and not (self._state.done or self._source_error):
            message = self._state.take(time.monotonic())
            if message is not None:
                yield message
            else:
                await self._change(self._state.delay(time.monotonic()))

    async def _read(self) -> None:
        try:
            while not self._state.exhausted:
                if not self._state.wants_input:
                    await self._change(None)
                    continue
                content = await anext(self._source, None)
                if content is None:
                    self._state.exhausted = True
                else:
                    self._state.put(*content)
                self._wake()
        except Exception as error:  # it is the caller's: handed back to him where he iterates
            self._source_error = error
            self._wake()

    def _wake(self) -> None:
        """Wakes everyone who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, timeout: float | None) -> None:
        await _within(timeout, self._changed)


async def _within(timeout: float | None, event: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout)


def _failure(error: grpc.RpcError) -> SAEKitError:
    failure = from_rpc_error(error)
    # A call that the server ends while it is being written to fails so in grpc.aio, and the
    # server's own status is lost. Another call gets to hear it.
    if failure.message.startswith("Internal error from Core"):
        return UnavailableError("the server ended the call while inputs were being sent")
    return failure


async def async_rounds(
    open_call: OpenCall,
    source: AsyncSource,
    state: StreamState[R],
    timeout: float | None,
) -> AsyncGenerator[StreamItem[R], None]:
    """RunWithSAEsStream: windows of inputs, one call for each.

    Raises:
        SAEKitError: the whole stream failed.
    """
    deadline = Deadline(timeout)
    while not state.done:
        while state.wants_input:
            content = await anext(source, None)
            if content is None:
                state.exhausted = True
            else:
                state.put(*content)
        for item in state.ready():
            yield item
        if state.done:
            return
        await asyncio.sleep(state.delay(time.monotonic()) or 0.0)
        messages = state.take_all(time.monotonic())
        if not messages:
            raise state.unfinished()
        call = open_call(messages, deadline.left())
        try:
            async for frame in call:
                for item in state.ready(state.receive(frame, time.monotonic())):
                    yield item
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            wait = state.resume_in(failure, time.monotonic())
            if wait is None:
                raise failure from error
            await asyncio.sleep(wait)
        finally:
            call.cancel()
