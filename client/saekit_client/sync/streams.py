"""Drives the items of a stream over blocking gRPC calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from saekit_client.batch import StreamItem
from saekit_client.errors import from_rpc_error
from saekit_client.stream_state import StreamState

R = TypeVar("R")
Source = Iterator[tuple[str, Callable[[str], Message]]]
"""The caller's inputs: an id, and what makes the message of the id on the wire."""
OpenCall = Callable[[Any, float | None], Any]
"""Starts a call from its request(s) and the seconds left."""


class Deadline:
    """Seconds left of a timeout that several calls share."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds left, at least 0; None if there is no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class BidiStream(Generic[R]):
    """EncodeStream and DecodeStream: inputs go out while results come in.

    gRPC reads the requests in a thread of its own; results are handed out in the caller's.
    """

    def __init__(
        self,
        open_call: OpenCall,
        first: Message,
        source: Source,
        state: StreamState[R],
        timeout: float | None,
    ) -> None:
        self._open_call = open_call
        self._first = first
        self._source = source
        self._state = state
        self._deadline = Deadline(timeout)
        self._changed = threading.Condition()
        self._call_number = 0
        self._reading = False  # one thread at a time reads from the source
        self._source_error: BaseException | None = None

    def items(self) -> Iterator[StreamItem[R]]:
        """The outcomes, as they are ready or in order. Closing the iterator cancels the call.

        Raises:
            SAEKitError: the whole stream failed.
        """
        while not self._state.done:
            wait = yield from self._one_call()
            time.sleep(wait)
        yield from self._state.ready()

    def _one_call(self) -> Generator[StreamItem[R], None, float]:
        """Results until the call ends; returns the seconds to wait before another one."""
        state = self._state
        call = self._open_call(self._requests(self._call_number), self._deadline.left())
        try:
            for frame in call:
                with self._changed:
                    ready = state.ready(state.receive(frame, time.monotonic()))
                    self._changed.notify_all()
                yield from ready
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            with self._changed:
                wait = state.resume_in(failure, time.monotonic())
            if wait is None:
                raise failure from error
            return wait
        finally:
            with self._changed:
                self._call_number += 1  # the thread that sends for this call ends
                self._changed.notify_all()
            call.cancel()
        if self._source_error is not None:
            raise self._source_error
        if not state.done:
            raise state.unfinished()
        return 0.0

    def _requests(self, call_number: int) -> Iterator[Message]:
        yield self._first
        while True:
            with self._changed:
                if self._call_number != call_number or self._state.done or self._source_error:
                    return
                message = self._state.take(time.monotonic())
                read = message is None and self._state.wants_input and not self._reading
                if message is None and not read:
                    self._changed.wait(self._state.delay(time.monotonic()))
                    continue
                self._reading = read or self._reading
            if message is not None:
                yield message
            else:
                self._read()

    def _read(self) -> None:
        """Takes the next input, outside the lock: it may take the caller a while to make it."""
        content = error = None
        try:
            content = next(self._source, None)
        except BaseException as raised:  # it is the caller's: handed back to him in his thread
            error = raised
        with self._changed:
            self._reading = False
            if error is not None:
                self._source_error = error
            elif content is None:
                self._state.exhausted = True
            else:
                self._state.put(*content)
            self._changed.notify_all()


def rounds(
    open_call: OpenCall, source: Source, state: StreamState[R], timeout: float | None
) -> Iterator[StreamItem[R]]:
    """RunWithSAEsStream: windows of inputs, one call for each.

    Raises:
        SAEKitError: the whole stream failed.
    """
    deadline = Deadline(timeout)
    while not state.done:
        while state.wants_input:
            content = next(source, None)
            if content is None:
                state.exhausted = True
            else:
                state.put(*content)
        yield from state.ready()
        if state.done:
            return
        time.sleep(state.delay(time.monotonic()) or 0.0)
        now = time.monotonic()
        messages = state.take_all(now)
        if not messages:
            raise state.unfinished()
        call = open_call(messages, deadline.left())
        try:
            for frame in call:
                yield from state.ready(state.receive(frame, time.monotonic()))
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            wait = state.resume_in(failure, time.monotonic())
            if wait is None:
                raise failure from error
            time.sleep(wait)
        finally:
            call.cancel()
