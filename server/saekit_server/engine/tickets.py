"""What waits on the event loop for what the device thread does."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saekit_core.lm.generation import Generation, StepOutput
from saekit_server.engine.work import Work
from saekit_server.errors import DomainError


@dataclass(eq=False)
class Ticket:
    """A work whose answer somebody awaits; `admitted` is a time of the engine's clock."""

    id: int
    work: Work
    future: "asyncio.Future[Any]"
    admitted: float

    def deliver(self, answer: Any) -> None:
        """The answer or a DomainError; on the event loop."""
        if self.future.done():
            return
        if isinstance(answer, DomainError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


@dataclass(eq=False)
class StreamTicket:
    """A generation whose tokens somebody awaits."""

    id: int
    generation: Generation
    stream: "Stream"
    admitted: float
    last_token: float | None = None

    def deliver(self, answer: "StepOutput | DomainError") -> None:
        """The next output, or what ended the generation; on the event loop."""
        self.stream.put(answer)


AnyTicket = Ticket | StreamTicket


def deliver(pairs: Sequence[tuple[AnyTicket, Any]]) -> None:
    """Hands answers to those who wait; on the event loop."""
    for ticket, answer in pairs:
        ticket.deliver(answer)


class Stream:
    """The outputs of the generations of one call, in the order in which they were made.

    Iterating raises the DomainError that ended a generation from outside (a deadline, a device
    without memory).
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[StepOutput | DomainError] = asyncio.Queue()

    def put(self, output: StepOutput | DomainError) -> None:
        """One more; on the event loop."""
        self._queue.put_nowait(output)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> StepOutput:
        output = await self._queue.get()
        if isinstance(output, DomainError):
            raise output
        return output
