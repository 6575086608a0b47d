"""What the event loop and the device thread share: scheduler and tickets, under one lock."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from saekit_server.engine.tickets import AnyTicket
from saekit_server.errors import unavailable
from saekit_server.scheduler import Figures, Job, Room, Scheduler, Tick

T = TypeVar("T")
DeviceCall = tuple[Callable[[], Any], "Future[Any]"]


class Desk:
    """Work comes in on one side and is taken off on the other.

    Attributes:
        last_step: clock time of the last tick that was taken.
    """

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._changed = threading.Condition()
        self._tickets: dict[Any, AnyTicket] = {}
        self._calls: deque[DeviceCall] = deque()
        self._closed = False
        self.last_step = clock()

    # The event loop's side.

    def admit(self, pairs: Sequence[tuple[Job, AnyTicket]], room: Room | None = None) -> None:
        """Takes jobs in, all or none, into the room that was kept for them; AdmissionError."""
        with self._changed:
            self._scheduler.admit(*(job for job, _ in pairs), room=room)
            self._wake_up()
            self._tickets.update((job.id, ticket) for job, ticket in pairs)
            self._changed.notify()

    def keep_room(self, caller: str, n_jobs: int) -> Room:
        """Keeps room for so many jobs; AdmissionError where they would not be taken in."""
        with self._changed:
            return self._scheduler.keep_room(caller, n_jobs)

    def give_back(self, room: Room) -> None:
        """Whatever is still kept of it is free again."""
        if room.jobs:
            with self._changed:
                self._scheduler.give_back(room)

    def cancel(self, job_ids: Sequence[Any]) -> None:
        """Whoever waited for these has gone; those that have ended are passed over."""
        with self._changed:
            for job_id in job_ids:
                self._scheduler.cancel(job_id)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Asks for a function to be called between two ticks."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise leaving()
            self._wake_up()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def drain(self) -> None:
        """Takes nothing new; what is admitted goes on."""
        with self._changed:
            self._scheduler.drain()

    def close(self) -> None:
        """`next_tick` gives no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Nothing is admitted that has not ended, and nobody waits for a call."""
        return not self._tickets and not self._calls

    def figures(self) -> Figures:
        """Depths, ages and slots."""
        with self._changed:
            return self._scheduler.figures()

    def check_integrity(self) -> None:
        """Raises IntegrityError unless the scheduler's books add up, and agree with the tickets."""
        with self._changed:
            self._scheduler.check_integrity()
            if self._scheduler.idle != (not self._tickets):
                raise AssertionError(f"tickets {list(self._tickets)} and the scheduler differ")

    def _wake_up(self) -> None:
        """Time without a step counts from the work that ends a rest, not from the rest's start."""
        if self.idle:
            self.last_step = self._clock()

    # The device thread's side.

    def next_tick(self) -> tuple[Tick, list[DeviceCall]] | None:
        """What is next, waiting for it; None once closed."""
        with self._changed:
            while not self._closed:
                tick = self._scheduler.tick()
                if tick.has_work or tick.dropped or self._calls:
                    calls = list(self._calls)
                    self._calls.clear()
                    self.last_step = self._clock()
                    return tick, calls
                due = self._scheduler.next_deadline()
                self._changed.wait(None if due is None else max(0.0, due - self._clock()))
        return None

    def ticket(self, job: Job) -> AnyTicket:
        """Who waits for a job that runs."""
        return self._tickets[job.id]

    def finish(self, jobs: Sequence[Job]) -> list[AnyTicket]:
        """Jobs that ran have ended; who waited for them."""
        with self._changed:
            for job in jobs:
                self._scheduler.finish(job.id)
            return [self._tickets.pop(job.id) for job in jobs]

    def forget(self, jobs: Sequence[Job]) -> list[AnyTicket]:
        """Jobs that the scheduler dropped; who waited for them."""
        with self._changed:
            return [self._tickets.pop(job.id) for job in jobs]

    def back_off(self, jobs: Sequence[Job]) -> bool:
        """Device memory ran out for a batch; whether it comes again in smaller ones."""
        with self._changed:
            return self._scheduler.back_off([job.id for job in jobs])

    def abandon(self) -> list[AnyTicket]:
        """Nothing will be answered any more; who still waited. Calls are refused."""
        with self._changed:
            self._closed = True
            for _, future in self._calls:
                future.set_exception(leaving())
            self._calls.clear()
            tickets = list(self._tickets.values())
            self._tickets.clear()
            return tickets


def leaving() -> Exception:
    """Why nothing is taken any more."""
    return unavailable("the server is shutting down", retry_after_s=1.0)
