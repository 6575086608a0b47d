"""The items of a stream between being read from the caller and being handed back to him.

Plain bookkeeping: no threads, no gRPC, no clock. The sync and the async client drive it alike. It
bounds the items under way, joins frames, sends again what failed as UNAVAILABLE, and keeps order if
asked to. Items travel under ids of its own (their index), so that callers' ids may repeat.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from saekit.codec import CodecError, FrameJoiner
from saekit.v1 import input_pb2, sae_service_pb2
from saekit_client.batch import StreamItem
from saekit_client.channel import RetryPolicy
from saekit_client.errors import InvalidArgumentError, SAEKitError, from_status
from saekit_client.results import ServedBy
from saekit_client.run_results import SAERevision

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_WINDOW = 256
"""Inputs of a stream that are under way at once; servers sort within a window of this size."""
RUN_WINDOW = 32
"""As DEFAULT_WINDOW, for runs: their results can be large."""


class Frame(Protocol):
    """What the frames of all three streams have in common."""

    id: str
    last: bool
    header: Any
    part: sae_service_pb2.Part
    status: Any
    served_by: input_pb2.ServedBy

    def WhichOneof(self, group: Any, /) -> str | None:  # noqa: N802
        """Name of the set field."""

    def HasField(self, name: Any, /) -> bool:  # noqa: N802
        """Whether a field is set."""


@dataclass(frozen=True)
class Provenance:
    """What answered a call."""

    served_by: ServedBy
    saes: tuple[SAERevision, ...] = ()
    """Of runs: every SAE that took part."""


class Parse(Protocol[R_co]):
    """Makes a result, a dataclass with `index` and `id`, of a whole header."""

    def __call__(self, header: Any, provenance: Provenance, /) -> R_co:
        """The result."""


@dataclass
class _Open(Generic[R]):
    index: int
    id: str
    message: Message
    tries: int = 0
    joiner: FrameJoiner | None = None
    results: list[R] = field(default_factory=list)


class StreamState(Generic[R]):
    """One stream of items."""

    def __init__(self, parse: Parse[R], *, window: int, ordered: bool, retry: RetryPolicy) -> None:
        if window < 1:
            raise ValueError(f"window: expected at least 1, got {window}")
        self.exhausted = False
        """The caller has no further inputs."""
        self._parse = parse
        self._window = window
        self._ordered = ordered
        self._retry = retry
        self._open: dict[str, _Open[R]] = {}
        self._to_send: list[tuple[float, int]] = []  # heap of (not before, index)
        self._held: dict[int, StreamItem[R]] = {}
        self._n_read = 0
        self._n_handed = 0
        self._refused: list[StreamItem[R]] = []
        self._provenance: Provenance | None = None
        self.broken = 0
        """Calls that broke since the last result."""

    @property
    def wants_input(self) -> bool:
        """Whether another input may be read: the window has room."""
        return not self.exhausted and len(self._open) + len(self._held) < self._window

    @property
    def done(self) -> bool:
        """Every input has been read and has its result."""
        return self.exhausted and not self._open

    def put(self, id: str, make: Callable[[str], Message]) -> None:
        """Another input of the caller.

        `make` turns the id on the wire into its message; what it refuses with a TypeError or a
        ValueError becomes the item's error, and the stream goes on.
        """
        index, self._n_read = self._n_read, self._n_read + 1
        try:
            message = make(str(index))
        except (TypeError, ValueError) as error:
            self._refused.append(StreamItem(index, id, (), InvalidArgumentError(str(error))))
            return
        self._open[str(index)] = _Open(index, id, message)
        heapq.heappush(self._to_send, (0.0, index))

    def take(self, now: float) -> Message | None:
        """The next message to send, if one is due."""
        if not self._to_send or self._to_send[0][0] > now:
            return None
        _, index = heapq.heappop(self._to_send)
        item = self._open[str(index)]
        item.tries += 1
        return item.message

    def take_all(self, now: float) -> list[Message]:
        """Every message that is due."""
        messages = []
        while (message := self.take(now)) is not None:
            messages.append(message)
        return messages

    def delay(self, now: float) -> float | None:
        """Seconds until a message is due; None if nothing waits to be sent."""
        return max(0.0, self._to_send[0][0] - now) if self._to_send else None

    def receive(self, frame: Frame, now: float) -> StreamItem[R] | None:
        """A frame; returns the item that it completes.

        Raises:
            SAEKitError: the frame is of no item under way, or does not hold what it says.
        """
        if frame.HasField("served_by"):
            self._provenance = Provenance(
                ServedBy.of(frame.served_by),
                tuple(SAERevision.of(s) for s in getattr(frame, "saes", ())),
            )
        item = self._open.get(frame.id)
        if item is None:
            raise protocol_error(f"a frame of the unknown item {frame.id!r}")
        kind = frame.WhichOneof("payload")
        if kind == "status":
            return self._fail(item, from_status(frame.status), now)
        self.broken = 0
        try:
            if kind == "header":
                self._close_result(item)
                item.joiner = FrameJoiner(frame.header)
            elif kind == "part":
                if item.joiner is None:
                    raise protocol_error("a part without its header")
                item.joiner.add(frame.part)
            if not frame.last:
                return None
            self._close_result(item)
        except CodecError as error:
            raise protocol_error(f"{error.field}: {error}") from error
        del self._open[frame.id]
        return StreamItem(item.index, item.id, tuple(item.results))

    def ready(self, item: StreamItem[R] | None = None) -> list[StreamItem[R]]:
        """What may be handed to the caller, now that this item is complete."""
        complete, self._refused = self._refused + ([item] if item else []), []
        if not self._ordered:
            return complete
        self._held.update((item.index, item) for item in complete)
        ready = []
        while self._n_handed in self._held:
            ready.append(self._held.pop(self._n_handed))
            self._n_handed += 1
        return ready

    def resume_in(self, error: SAEKitError, now: float) -> float | None:
        """The call broke: queues everything under way again.

        Returns:
            Seconds after which to make a new call; None if the error is not one that a new call can
            cure, or if too many calls broke without a result in between.
        """
        self.broken += 1
        if error.code is not grpc.StatusCode.UNAVAILABLE or self.broken >= self._retry.attempts:
            return None
        wait = max(error.retry_after or 0.0, self._retry.backoff(self.broken))
        self._to_send = [(now, item.index) for item in self._open.values()]
        heapq.heapify(self._to_send)
        for item in self._open.values():
            item.joiner, item.results = None, []
        return wait

    def unfinished(self) -> SAEKitError:
        """The error of a call that ended well, but too early."""
        return protocol_error(f"the stream ended with {len(self._open)} results outstanding")

    def _fail(self, item: _Open[R], error: SAEKitError, now: float) -> StreamItem[R] | None:
        if error.code is grpc.StatusCode.UNAVAILABLE and item.tries < self._retry.attempts:
            wait = max(error.retry_after or 0.0, self._retry.backoff(item.tries))
            item.joiner, item.results = None, []
            heapq.heappush(self._to_send, (now + wait, item.index))
            return None
        del self._open[str(item.index)]
        return StreamItem(item.index, item.id, (), error)

    def _close_result(self, item: _Open[R]) -> None:
        if item.joiner is None:
            return
        if self._provenance is None:
            raise protocol_error("the first frame does not say what answered")
        result: Any = self._parse(item.joiner.join(), self._provenance)
        item.results.append(replace(result, index=item.index, id=item.id))
        item.joiner = None


def protocol_error(message: str) -> SAEKitError:
    """The error of a server that does not keep to the protocol."""
    return SAEKitError(f"the server broke the protocol: {message}", code=grpc.StatusCode.INTERNAL)
