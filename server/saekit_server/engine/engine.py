"""The engine: admits work on the event loop, runs it on the one thread that owns the device.

All that the two threads share is the desk. Answers go back to the event loop once per batch.
"""

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from saekit_core.lm.generation import Generation
from saekit_core.lm.model import LanguageModel
from saekit_server.engine.call import Call
from saekit_server.engine.desk import Desk
from saekit_server.engine.device import DeviceThread
from saekit_server.engine.jobs import admission_error, job_of, steer_job
from saekit_server.engine.runner import Runner
from saekit_server.engine.tickets import AnyTicket, Stream, StreamTicket, Ticket
from saekit_server.engine.work import Work
from saekit_server.errors import DomainError, deadline_exceeded
from saekit_server.metrics import Metrics
from saekit_server.scheduler import (
    AdmissionError,
    Figures,
    Job,
    NeverFitsError,
    Priority,
    QueueFullError,
    QuotaExceededError,
    Room,
    Scheduler,
)
from saekit_server.scheduler.admission import check_fits

T = TypeVar("T")

# Between two tries of a stream that can wait for room in the queue.
_PATIENCE_S = 0.01


class Engine:
    """Runs works and generations of all callers."""

    def __init__(
        self,
        model: LanguageModel,
        scheduler: Scheduler,
        runner: Runner,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._desk = Desk(scheduler, clock)
        self._limits = scheduler.limits
        self._model = model
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._ids = itertools.count()
        self._thread: DeviceThread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the device thread; answers are delivered on `loop`."""
        self._thread = DeviceThread(self._desk, self._runner, self._metrics, self._clock, loop)
        self._thread.start()

    @contextmanager
    def room(self, call: Call, inputs: int) -> Iterator[Room]:
        """Room in the queue while a request of so many inputs is read, or a refusal at once.

        Under overload most requests are turned away: they must not cost the tokenising of their
        texts, which those that are answered need.

        Raises:
            DomainError: UNAVAILABLE or RESOURCE_EXHAUSTED, with the time to wait.
        """
        try:
            room = self._desk.keep_room(call.caller, inputs)
        except AdmissionError as error:
            self._metrics.rejections.labels(error.limit).inc()
            raise admission_error(error, self._limits) from error
        try:
            yield room
        finally:
            self._desk.give_back(room)

    async def run(
        self,
        works: Sequence[Work],
        call: Call,
        priority: Priority,
        names: Sequence[str] = (),
        *,
        room: Room | None = None,
    ) -> list[Any]:
        """The answers of works, which may share batches with anyone's.

        Args:
            works: admitted all or none.
            call: whose they are.
            priority: their place in the queue.
            names: of each work, to which an error's field is relative.
            room: what was kept for them.

        Raises:
            DomainError: of the first work that failed; the others are cancelled.
        """
        try:
            tickets = self._submit(works, call, priority, names, room)
        except NeverFitsError as error:
            # Each fits, or it would have been named, but not all of them together.
            all_of_them = names[0].partition("[")[0] if names else ""
            raise admission_error(error, self._limits).within(all_of_them) from error
        except AdmissionError as error:
            raise admission_error(error, self._limits) from error
        return await self._answers(tickets, names)

    async def run_patiently(
        self, works: Sequence[Work], call: Call, priority: Priority
    ) -> list[Any]:
        """As `run`, but waits where the queue is full: for streams, whose client can be slowed."""
        while True:
            try:
                tickets = self._submit(works, call, priority)
            except (QueueFullError, QuotaExceededError):
                if call.deadline is not None and self._clock() >= call.deadline:
                    raise deadline_exceeded("it passed while the queue was full") from None
                await asyncio.sleep(_PATIENCE_S)
            except AdmissionError as error:
                raise admission_error(error, self._limits) from error
            else:
                return await self._answers(tickets, ())

    @contextmanager
    def steer(
        self,
        generations: Sequence[Generation],
        call: Call,
        priority: Priority,
        *,
        room: Room | None = None,
    ) -> Iterator[Stream]:
        """The outputs of generations while they run; leaving the block ends them.

        Args:
            room: what was kept for them.

        Raises:
            DomainError: they were not admitted.
        """
        stream = Stream()
        pairs: list[tuple[Job, AnyTicket]] = []
        for generation in generations:
            ticket = StreamTicket(next(self._ids), generation, stream, self._clock())
            job = steer_job(generation, ticket.id, call, priority, self._model)
            pairs.append((job, ticket))
        try:
            self._admit(pairs, room)
        except AdmissionError as error:
            raise admission_error(error, self._limits) from error
        try:
            yield stream
        finally:
            self._desk.cancel([job.id for job, _ in pairs])

    def run_on_device(self, function: Callable[[], T]) -> T:
        """Runs a function on the device thread, between two batches, and waits for it."""
        if self._thread is None or threading.current_thread() is self._thread:
            return function()
        return self._desk.call(function).result()

    def stalled_s(self) -> float:
        """Seconds without a step while there is work; 0 while there is none."""
        if self._thread is not None and self._thread.failed:
            return math.inf
        return 0.0 if self._desk.idle else self._clock() - self._desk.last_step

    def drain(self) -> None:
        """Takes nothing new; what is admitted goes on."""
        self._desk.drain()

    @property
    def idle(self) -> bool:
        """Nothing is admitted that has not ended."""
        return self._desk.idle

    def figures(self) -> Figures:
        """What waits and what runs."""
        return self._desk.figures()

    def check_integrity(self) -> None:
        """Raises unless the books of the scheduler and of those who wait add up."""
        self._desk.check_integrity()

    def stop(self) -> None:
        """Ends the device thread after the batch that it runs; what waits is refused."""
        self._desk.close()
        if self._thread is not None:
            self._thread.join()

    def _submit(
        self,
        works: Sequence[Work],
        call: Call,
        priority: Priority,
        names: Sequence[str] = (),
        room: Room | None = None,
    ) -> list[Ticket]:
        loop = asyncio.get_running_loop()
        tickets = [Ticket(next(self._ids), w, loop.create_future(), self._clock()) for w in works]
        jobs = [job_of(t.work, t.id, call, priority, self._model) for t in tickets]
        # The scheduler checks it again, but knows no names.
        for job, name in zip(jobs, names or [""] * len(jobs), strict=True):
            try:
                check_fits(job, self._limits)
            except NeverFitsError as error:
                self._metrics.rejections.labels(error.limit).inc()
                raise admission_error(error, self._limits).within(name) from error
        self._admit(list(zip(jobs, tickets, strict=True)), room)
        return tickets

    def _admit(self, pairs: Sequence[tuple[Job, AnyTicket]], room: Room | None) -> None:
        try:
            self._desk.admit(pairs, room)
        except AdmissionError as error:
            self._metrics.rejections.labels(error.limit).inc()
            raise

    async def _answers(self, tickets: Sequence[Ticket], names: Sequence[str]) -> list[Any]:
        answers = []
        try:
            for i, ticket in enumerate(tickets):
                try:
                    answers.append(await ticket.future)
                except DomainError as error:
                    raise error.within(names[i] if names else "") from error.__cause__
        finally:
            if len(answers) < len(tickets):
                self._desk.cancel([ticket.id for ticket in tickets[len(answers) :]])
                for ticket in tickets[len(answers) :]:
                    if not ticket.future.cancel():
                        ticket.future.exception()  # asyncio complains of one that nobody reads
        return answers
