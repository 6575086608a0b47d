"""Latencies under load: asyncio callers, some in step with the server and some with the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

_OPTIONS: Final = [("grpc.max_receive_message_length", -1)]

Call = Callable[[], Awaitable[Any]]


@dataclass
class Seen:
    """What happened to the calls of one kind."""

    seconds: list[float] = field(default_factory=list)
    """Of those that were answered."""
    rejected: list[float] = field(default_factory=list)
    """Seconds until those were turned away that did not fit."""
    answered: list[float] = field(default_factory=list)
    """When those were answered that were, by the clock of `time.perf_counter`."""

    def rate(self, since: float, seconds: float) -> float:
        """Answers per second in a span of time."""
        return sum(since <= when < since + seconds for when in self.answered) / seconds


async def timed(call: Call, seen: Seen) -> None:
    """Makes a call and notes how long it took; being turned away is no error here."""
    began = time.perf_counter()
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        seen.rejected.append(time.perf_counter() - began)
    else:
        now = time.perf_counter()
        seen.seconds.append(now - began)
        seen.answered.append(now)


async def open_loop(call: Call, seen: Seen, *, per_second: float, seconds: float) -> None:
    """Calls by the clock, whether or not the server keeps up, and waits for all of them."""
    began = time.perf_counter()
    calls = []
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        calls.append(asyncio.create_task(timed(call, seen)))
    await asyncio.gather(*calls)


async def closed_loop(call: Call, seen: Seen, *, callers: int, seconds: float) -> None:
    """So many callers, each with its next call when the last one has been answered."""
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            await timed(call, seen)

    await asyncio.gather(*(caller() for _ in range(callers)))


def channel(address: str) -> grpc.aio.Channel:
    """A connection that does not try again by itself."""
    return grpc.aio.insecure_channel(address, options=[*_OPTIONS, ("grpc.enable_retries", 0)])
