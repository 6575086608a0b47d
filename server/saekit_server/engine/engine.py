"""The engine: admits work on the event loop, runs it on the one thread that owns the device.

All that the two threads share is the scheduler and the tickets, behind one condition. Answers go
back to the event loop once per batch.
"""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from saekit_core.lm.generation import Generation, StepOutput
from saekit_core.lm.model import LanguageModel
from saekit_server.engine.call import Call
from saekit_server.engine.jobs import admission_error, job_of, steer_job
from saekit_server.engine.memory import DeviceMemoryError
from saekit_server.engine.observe import encodings_of, observe_encodings
from saekit_server.engine.runner import Runner
from saekit_server.engine.tickets import AnyTicket, Stream, StreamTicket, Ticket, deliver
from saekit_server.engine.work import Work
from saekit_server.errors import DomainError, deadline_exceeded, exhausted, unavailable
from saekit_server.metrics import Metrics
from saekit_server.scheduler import (
    AdmissionError,
    Drop,
    DropReason,
    Job,
    Prefill,
    Priority,
    QueueFullError,
    QuotaExceededError,
    Scheduler,
    SteerJob,
    Tick,
)

T = TypeVar("T")

# Between two tries of a stream that can wait for room in the queue.
_PATIENCE_S = 0.01


class Engine:
    """Runs works and generations of all callers.

    Attributes:
        scheduler: decides what runs; touch it only under the engine's own calls.
    """

    def __init__(
        self,
        model: LanguageModel,
        scheduler: Scheduler,
        runner: Runner,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = scheduler
        self._model = model
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._ids = itertools.count()
        self._wake = threading.Condition()
        self._tickets: dict[Any, AnyTicket] = {}
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._stopping = False
        self._last_step = clock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="saekit-device", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Starts the device thread; answers are delivered on `loop`."""
        self._loop = loop
        self._thread.start()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that answers are delivered on, when it was not known at the start."""
        self._loop = loop

    async def run(
        self, works: Sequence[Work], call: Call, priority: Priority, names: Sequence[str] = ()
    ) -> list[Any]:
        """The answers of works, which may share batches with anyone's.

        Args:
            works: admitted all or none.
            call: whose they are.
            priority: their place in the queue.
            names: of each work, to which an error's field is relative.

        Raises:
            DomainError: of the first work that failed; the others are cancelled.
        """
        try:
            tickets = self._submit(works, call, priority)
        except AdmissionError as error:
            raise admission_error(error) from error
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
                raise admission_error(error) from error
            else:
                return await self._answers(tickets, ())

    @contextmanager
    def steer(
        self, generations: Sequence[Generation], call: Call, priority: Priority
    ) -> Iterator[Stream]:
        """The outputs of generations while they run; leaving the block ends them.

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
            self._admit(pairs)
        except AdmissionError as error:
            raise admission_error(error) from error
        try:
            yield stream
        finally:
            self._cancel([job.id for job, _ in pairs])

    def run_on_device(self, function: Callable[[], T]) -> T:
        """Runs a function on the device thread, between two batches, and waits for it."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return function()
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                raise unavailable("the server is shutting down", retry_after_s=1.0)
            self._calls.append((function, future))
            self._wake.notify()
        return future.result()

    def stalled_s(self) -> float:
        """Seconds without a step while there is work; 0 while there is none."""
        if not self._tickets and not self._calls:
            return 0.0
        return self._clock() - self._last_step

    def drain(self) -> None:
        """Takes nothing new; what is admitted goes on."""
        with self._wake:
            self.scheduler.drain()

    @property
    def idle(self) -> bool:
        """Nothing is admitted that has not ended."""
        return not self._tickets

    def stop(self) -> None:
        """Ends the device thread after the batch that it runs; what waits is refused."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, works: Sequence[Work], call: Call, priority: Priority) -> list[Ticket]:
        loop = asyncio.get_running_loop()
        tickets = [Ticket(next(self._ids), w, loop.create_future(), self._clock()) for w in works]
        self._admit([(job_of(t.work, t.id, call, priority, self._model), t) for t in tickets])
        return tickets

    def _admit(self, pairs: Sequence[tuple[Job, AnyTicket]]) -> None:
        """All or none."""
        with self._wake:
            try:
                self.scheduler.admit(*(job for job, _ in pairs))
            except AdmissionError as error:
                self._metrics.rejections.labels(error.limit).inc()
                raise
            self._tickets.update((job.id, ticket) for job, ticket in pairs)
            self._wake.notify()

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
                self._cancel([ticket.id for ticket in tickets[len(answers) :]])
                for ticket in tickets[len(answers) :]:
                    ticket.future.cancel()
        return answers

    def _cancel(self, job_ids: Sequence[Any]) -> None:
        with self._wake:
            for job_id in job_ids:
                self.scheduler.cancel(job_id)
            self._wake.notify()

    def _run(self) -> None:
        """The device thread."""
        while (tick := self._next_tick()) is not None:
            self._last_step = self._clock()
            while self._calls:
                _call(*self._calls.popleft())
            self._deliver([(self._forget(d.job), _dropped(d)) for d in tick.dropped])
            if tick.forward:
                self._batch("forward", tick.forward, self._runner.forward)
                self._metrics.batch_tokens.labels("forward").observe(tick.forward_tokens)
                self._metrics.tokens_in.labels("forward").inc(tick.forward_tokens)
            if tick.sae:
                self._batch("sae", tick.sae, self._runner.sae)
                self._metrics.batch_tokens.labels("sae").observe(sum(j.rows for j in tick.sae))
            if tick.prefill:
                self._prefill(tick.prefill)
            if tick.decode:
                self._decode(tick.decode)
        leaving = unavailable("the server is shutting down", retry_after_s=1.0)
        for _, future in self._calls:
            future.set_exception(leaving)
        self._deliver([(ticket, leaving) for ticket in self._tickets.values()])

    def _next_tick(self) -> Tick | None:
        """What is next, waiting for it; None at the end."""
        with self._wake:
            while not self._stopping:
                tick = self.scheduler.tick()
                self._observe_queue()
                if tick.has_work or tick.dropped or self._calls:
                    return tick
                due = self.scheduler.next_deadline()
                self._wake.wait(None if due is None else max(0.0, due - self._clock()))
        return None

    def _batch(
        self, kind: str, jobs: Sequence[Job], run: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> None:
        now = self._clock()
        tickets = [self._tickets[job.id] for job in jobs]
        for ticket in tickets:
            self._metrics.queue_seconds.labels(kind).observe(now - ticket.admitted)
        self._metrics.batch_rows.labels(kind).observe(len(jobs))
        works = [ticket.work for ticket in tickets if isinstance(ticket, Ticket)]
        try:
            answers = run(works)
        except DeviceMemoryError:
            self._back_off(jobs)
            return
        self._end(list(zip(jobs, answers, strict=True)))
        observe_encodings(self._metrics, encodings_of(works, answers))

    def _prefill(self, pieces: Sequence[Prefill]) -> None:
        parts = []
        for piece in pieces:
            generation = self._generation(piece.job)
            (generation.slot,) = piece.slots
            if piece.start == 0:
                waited = self._clock() - self._tickets[piece.job.id].admitted
                self._metrics.queue_seconds.labels("steer").observe(waited)
            parts.append((generation, piece.tokens))
        self._metrics.batch_tokens.labels("prefill").observe(sum(n for _, n in parts))
        jobs = [piece.job for piece in pieces]
        try:
            self._streamed(jobs, self._runner.prefill(parts))
        except DeviceMemoryError:
            self._back_off(jobs)

    def _decode(self, jobs: Sequence[SteerJob]) -> None:
        self._metrics.batch_rows.labels("decode").observe(len(jobs))
        self._streamed(jobs, self._runner.decode([self._generation(job) for job in jobs]))

    def _generation(self, job: Job) -> Generation:
        ticket = self._tickets[job.id]
        assert isinstance(ticket, StreamTicket)
        return ticket.generation

    def _streamed(self, jobs: Sequence[Job], outputs: Sequence[StepOutput | DomainError]) -> None:
        """Delivers the outputs of a step; generations that ended free their slots."""
        now = self._clock()
        ended, going = [], []
        for job, output in zip(jobs, outputs, strict=True):
            if isinstance(output, DomainError) or output.finish is not None:
                ended.append((job, output))
            elif output.token is not None:
                going.append((self._tickets[job.id], output))
            if isinstance(output, StepOutput) and output.token is not None:
                self._observe_token(self._tickets[job.id], now)
        self._deliver(going)
        self._end(ended)

    def _back_off(self, jobs: Sequence[Job]) -> None:
        """The device has too little memory for a batch: it comes again smaller, or has to fail."""
        with self._wake:
            again = self.scheduler.back_off([job.id for job in jobs])
        if not again:
            failure = exhausted("the device has too little memory for this input alone")
            self._end([(job, failure) for job in jobs])

    def _end(self, pairs: Sequence[tuple[Job, Any]]) -> None:
        """Jobs have ended with these answers."""
        if not pairs:
            return
        with self._wake:
            for job, _ in pairs:
                self.scheduler.finish(job.id)
        self._deliver([(self._forget(job), answer) for job, answer in pairs])

    def _forget(self, job: Job) -> AnyTicket:
        with self._wake:
            return self._tickets.pop(job.id)

    def _deliver(self, pairs: Sequence[tuple[AnyTicket, Any]]) -> None:
        if pairs and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver, pairs)

    def _observe_queue(self) -> None:
        figures = self.scheduler.figures()
        for kind, depth in figures.queued.items():
            self._metrics.queued_requests.labels(kind.value).set(depth.jobs)
            self._metrics.queued_tokens.labels(kind.value).set(depth.tokens)
        self._metrics.steer_rows.set(figures.decoding_rows)

    def _observe_token(self, ticket: AnyTicket, now: float) -> None:
        if not isinstance(ticket, StreamTicket):
            return
        self._metrics.tokens_out.inc()
        if ticket.last_token is None:
            self._metrics.first_token_seconds.observe(now - ticket.admitted)
        else:
            self._metrics.inter_token_seconds.observe(now - ticket.last_token)
        ticket.last_token = now


def _dropped(drop: Drop) -> DomainError:
    if drop.reason is DropReason.EXPIRED:
        return deadline_exceeded("the deadline passed while the request waited or ran")
    return DomainError("CANCELLED", "the call was cancelled")


def _call(function: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
