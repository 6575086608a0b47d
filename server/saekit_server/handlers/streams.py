"""Streams of items: many in flight, each with its own result or status."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2

from saekit.codec import split_message
from saekit.v1.sae_service_pb2 import Part
from saekit_server.errors import DomainError, invalid, told
from saekit_server.wire.status import status_message

# Items of one stream that are read ahead: enough to fill batches, few enough to hold in memory.
_WINDOW = 256

Item = TypeVar("Item")
Result = TypeVar("Result", bound=Message)


@dataclass(frozen=True)
class Frame(Generic[Result]):
    """A frame of a stream, whatever its RPC; exactly one of header, part and status is set."""

    id: str
    seq: int
    last: bool
    header: Result | None = None
    part: Part | None = None
    status: status_pb2.Status | None = None
    first: bool = False


@dataclass(frozen=True)
class _Answer(Generic[Result]):
    """All frames of an item; `done` is the id that may be used again after them."""

    frames: list[Frame[Result]]
    done: str | None


async def stream_items(
    items: AsyncIterator[tuple[str, Item]],
    answer: Callable[[Item, int], Awaitable[list[Result]]],
    *,
    unique_ids: bool = True,
) -> AsyncIterator[Frame[Result]]:
    """Frames of all items, as their answers become ready.

    An error of one item becomes its status and ends only that item; one of `items` itself (a
    stream that is malformed) ends the stream.

    Args:
        items: id and item, in the order of their seq.
        answer: the results of one item.
        unique_ids: refuse items without an id, or with one that is still outstanding.
    """
    ready: asyncio.Queue[_Answer[Result] | BaseException | None] = asyncio.Queue()
    places = asyncio.Semaphore(_WINDOW)
    outstanding: set[str] = set()

    async def one(name: str, item: Item, seq: int, problem: DomainError | None) -> None:
        try:
            if problem is not None:
                raise problem
            frames = _frames(name, seq, await answer(item, seq))
        except Exception as error:
            frames = [Frame(name, seq, last=True, status=status_message(told(error)))]
        await ready.put(_Answer(frames, None if problem else name))

    async def read() -> None:
        seq = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                async for name, item in items:
                    await places.acquire()
                    problem = _id_problem(name, outstanding) if unique_ids else None
                    if problem is None:
                        outstanding.add(name)
                    tasks.create_task(one(name, item, seq, problem))
                    seq += 1
        except BaseExceptionGroup as group:
            await ready.put(group.exceptions[0])
        else:
            await ready.put(None)

    reader = asyncio.create_task(read())
    first = True
    try:
        while (made := await ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            for frame in made.frames:
                yield replace(frame, first=True) if first else frame
                first = False
            if made.done is not None:
                outstanding.discard(made.done)
            places.release()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


def _frames(name: str, seq: int, results: list[Result]) -> list[Frame[Result]]:
    frames: list[Frame[Result]] = []
    for result in results:
        header, parts = split_message(result)
        frames.append(Frame(name, seq, last=False, header=header))
        frames += [Frame(name, seq, last=False, part=part) for part in parts]
    frames[-1] = replace(frames[-1], last=True)
    return frames


def _id_problem(name: str, outstanding: set[str]) -> DomainError | None:
    if not name:
        return invalid("id", "must not be empty in a stream: results come by id")
    if name in outstanding:
        return invalid("id", f"{name!r} is still outstanding in this stream")
    return None
