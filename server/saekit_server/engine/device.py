"""The one thread that owns the device: takes ticks, runs batches, hands answers back."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from saekit_core.lm.generation import Generation, StepOutput
from saekit_server.engine.desk import Desk, leaving
from saekit_server.engine.memory import DeviceMemoryError
from saekit_server.engine.observe import encodings_of, observe_encodings
from saekit_server.engine.runner import Runner
from saekit_server.engine.tickets import AnyTicket, StreamTicket, Ticket, deliver
from saekit_server.errors import DomainError, deadline_exceeded, exhausted
from saekit_server.metrics import Metrics
from saekit_server.scheduler import Drop, DropReason, Job, Prefill, SteerJob, Tick

_log = logging.getLogger(__name__)
T = TypeVar("T")


class DeviceThread(threading.Thread):
    """Works off a desk until it closes.

    Attributes:
        failed: it ended by an error of its own; nothing will be answered any more.
    """

    def __init__(
        self,
        desk: Desk,
        runner: Runner,
        metrics: Metrics,
        clock: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name="saekit-device", daemon=True)
        self._desk = desk
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._loop = loop
        self.failed = False

    def run(self) -> None:
        """Tick after tick; who still waits at the end is told so."""
        try:
            while (turn := self._desk.next_tick()) is not None:
                self._tick(*turn)
        except Exception:
            _log.exception("the device thread failed")
            self.failed = True
        self._deliver([(ticket, leaving()) for ticket in self._desk.abandon()])

    def _tick(self, tick: Tick, calls: Sequence[tuple[Callable[[], Any], "Future[Any]"]]) -> None:
        for function, future in calls:
            _call(function, future)
        if tick.dropped:
            tickets = self._desk.forget([drop.job for drop in tick.dropped])
            self._deliver(list(zip(tickets, map(_dropped, tick.dropped), strict=True)))
        if tick.forward:
            self._metrics.batch_tokens.labels("forward").observe(tick.forward_tokens)
            self._metrics.tokens_in.labels("forward").inc(tick.forward_tokens)
            self._batch("forward", tick.forward, self._runner.forward)
        if tick.sae:
            self._metrics.batch_tokens.labels("sae").observe(sum(j.rows for j in tick.sae))
            self._batch("sae", tick.sae, self._runner.sae)
        if tick.prefill:
            self._prefill(tick.prefill)
        if tick.decode:
            self._decode(tick.decode)

    def _batch(
        self, kind: str, jobs: Sequence[Job], run: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> None:
        now = self._clock()
        tickets = [self._desk.ticket(job) for job in jobs]
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
                waited = self._clock() - self._desk.ticket(piece.job).admitted
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
        ticket = self._desk.ticket(job)
        assert isinstance(ticket, StreamTicket)
        return ticket.generation

    def _streamed(self, jobs: Sequence[Job], outputs: Sequence[StepOutput | DomainError]) -> None:
        """Delivers the outputs of a step; generations that ended free their slots."""
        now = self._clock()
        ended, going = [], []
        tokens = 0
        for job, output in zip(jobs, outputs, strict=True):
            if isinstance(output, DomainError) or output.finish is not None:
                ended.append((job, output))
            elif output.token is not None:
                going.append((self._desk.ticket(job), output))
            if isinstance(output, StepOutput) and output.token is not None:
                tokens += 1
                self._observe_token(self._desk.ticket(job), now)
        self._metrics.tokens_out.inc(tokens)
        self._deliver(going)
        self._end(ended)

    def _back_off(self, jobs: Sequence[Job]) -> None:
        """The device has too little memory for a batch: it comes again smaller, or has to fail."""
        if not self._desk.back_off(jobs):
            failure = exhausted("the device has too little memory for this input alone")
            self._end([(job, failure) for job in jobs])

    def _end(self, pairs: Sequence[tuple[Job, Any]]) -> None:
        """Jobs have ended with these answers."""
        if pairs:
            tickets = self._desk.finish([job for job, _ in pairs])
            answers = [answer for _, answer in pairs]
            self._deliver(list(zip(tickets, answers, strict=True)))

    def _deliver(self, pairs: Sequence[tuple[AnyTicket, Any]]) -> None:
        if pairs and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver, pairs)

    def _observe_token(self, ticket: AnyTicket, now: float) -> None:
        if not isinstance(ticket, StreamTicket):
            return
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
