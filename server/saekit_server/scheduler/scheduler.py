"""What runs next on the one device: jobs, budgets and ages, nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from saekit_server.scheduler.admission import Ledger, Room, check_counts, check_fits, check_room
from saekit_server.scheduler.errors import DrainingError, expect
from saekit_server.scheduler.figures import Depth, Figures
from saekit_server.scheduler.job import Job, JobId, Kind
from saekit_server.scheduler.limits import Limits
from saekit_server.scheduler.pace import Pace
from saekit_server.scheduler.planner import Planner
from saekit_server.scheduler.tick import Drop, DropReason, Tick
from saekit_server.scheduler.timeline import Timeline


@dataclass(slots=True)
class _Entry:
    """A job that was admitted and has not ended."""

    job: Job
    arrival: float
    running: bool = False
    cancelled: bool = False


class Scheduler:
    """Admits jobs, and says tick by tick what the device does with them.

    Each admitted job ends exactly once: reported as dropped by a tick, or ended by `finish`.
    Not safe for threads: its owner calls it under a lock; every call is short.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never goes backwards."""
        self.limits = limits
        self.draining = False
        self._clock = clock
        self._entries: dict[JobId, _Entry] = {}
        self._planner = Planner(limits)
        self._backlogs = self._planner.backlogs
        self._streams = self._planner.streams
        self._ledger = Ledger()
        self._deadlines = Timeline()
        self._dropped: list[Drop] = []
        self._cancelled_streams: list[JobId] = []
        self._pace = Pace()
        self._busy_since: float | None = None
        self._taken_tokens = 0

    # ---- from the callers' side

    def admit(self, *jobs: Job, room: Room | None = None) -> None:
        """Queues the jobs of one request, all or none of them, and gives back its `room`.

        Raises DrainingError, NeverFitsError, QuotaExceededError or QueueFullError; ValueError for
        an id that has not ended yet, and for jobs of more than one caller.
        """
        if room is not None:
            self.give_back(room)
        if not jobs:
            return
        ids = {job.id for job in jobs}
        if len(ids) < len(jobs) or not self._entries.keys().isdisjoint(ids):
            raise ValueError(f"job ids {sorted(map(repr, ids))}: expected ids that are not in use")
        if len({job.caller for job in jobs}) > 1:
            raise ValueError("jobs of several callers: expected those of one request")
        self._refuse_if_draining(len(jobs))
        for job in jobs:
            check_fits(job, self.limits)
        check_room(jobs, self.limits, self._ledger, self._pace)
        now = self._clock()
        for job in jobs:
            entry = self._entries[job.id] = _Entry(job, now)
            self._enqueue(entry)

    def keep_room(self, caller: str, n_jobs: int) -> Room:
        """Room for so many jobs of a caller, or what `admit` would raise however small they were.

        Before the work of making them: it costs next to nothing to be refused then, and no other
        jobs take their places meanwhile. What could never wait together is left to `admit`, which
        knows the jobs. Raises DrainingError, QuotaExceededError or QueueFullError.
        """
        self._refuse_if_draining(n_jobs)
        if n_jobs > min(self.limits.max_caller_jobs, self.limits.max_caller_tokens):
            return Room(caller, 0)
        check_counts(
            caller,
            n_jobs,
            n_jobs,
            limits=self.limits,
            ledger=self._ledger,
            pace=self._pace,
        )
        room = Room(caller, n_jobs)
        self._ledger.keep(room)
        return room

    def give_back(self, room: Room) -> None:
        """The room is free again; a second time, nothing."""
        if room.jobs:
            self._ledger.give_back(room)

    def cancel(self, job_id: JobId) -> bool:
        """Whether the job had not ended yet.

        A waiting job will not run and a running stream gives up its slots; the next tick reports
        both as dropped. Other work that already runs is still ended by `finish`.
        """
        entry = self._entries.get(job_id)
        if entry is None:
            return False
        if not entry.running:
            self._drop_waiting(entry.job, DropReason.CANCELLED)
        elif not entry.cancelled:
            entry.cancelled = True
            if job_id in self._streams:
                self._cancelled_streams.append(job_id)
        return True

    def drain(self) -> None:
        """Admits nothing from now on; what was admitted is still served."""
        self.draining = True

    # ---- from the device's side

    def tick(self) -> Tick:
        """The next turn of the device, to be worked off before the next call."""
        now = self._clock()
        self._record_pace(now)
        dropped = self._drop(now)
        for job in self._planner.start_streams(now):
            self._leave_queue(job)
        decode = self._streams.decoding()
        forward, prefill = self._planner.plan_forward(now, mixed=bool(decode))
        sae = self._planner.plan_sae(now, mixed=bool(decode))
        for batch_job in (*forward, *sae):
            self._leave_queue(batch_job)
            # A batch runs to its end, so only a stream can still come too late.
            self._deadlines.discard(batch_job.id)
        tick = Tick(dropped, forward, sae, prefill, decode)
        if tick.has_work:
            self._busy_since = now
        return tick

    def finish(self, job_id: JobId) -> None:
        """The work of a running job is done, or has failed for good; a stream's slots are free.

        Raises LookupError for a job that does not run.
        """
        self._end(self._running(job_id))
        if not self._entries:
            self._record_pace(self._clock())

    def back_off(self, job_ids: Sequence[JobId]) -> bool:
        """Takes back one batch of the last tick, for which the device's memory did not suffice.

        Its jobs come again in smaller batches (pieces of prompts in smaller pieces): half of what
        this batch took is the ceiling, which then rises slowly. False, and nothing is changed, when
        the scheduler cannot make it smaller: a job alone has to fail, a decode step to be split.
        Raises LookupError for a job that does not run, ValueError for jobs of unlike kinds.
        """
        jobs = [self._running(job_id) for job_id in job_ids]
        if not self._planner.shrink(jobs):
            return False
        # Each goes to the front of its caller's line, so the last one first.
        for job in reversed(jobs):
            if job.kind is not Kind.STEER:
                self._requeue(job)
        return True

    def next_deadline(self) -> float | None:
        """Clock time of the next tick that has something to do although nothing new arrives.

        For an owner without work at hand: a deadline passes or a batch has waited `max_delay_s`.
        """
        times = (self._deadlines.first(), self._planner.delayed_until())
        return min((time for time in times if time is not None), default=None)

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing runs, and nothing is left to report."""
        return not self._entries and not self._dropped

    def figures(self) -> Figures:
        """Depths, ages and slots, for metrics."""
        now = self._clock()
        queued = {}
        for kind, backlog in self._backlogs.items():
            arrival = backlog.oldest_arrival
            age = 0.0 if arrival is None else now - arrival
            queued[kind] = Depth(backlog.jobs, backlog.tokens, age)
        return Figures(
            queued=queued,
            running_jobs=len(self._entries) - self._ledger.jobs,
            decoding_rows=sum(job.slots for job in self._streams.decoding()),
            slots_used=self._streams.used_slots,
            slots_free=self._streams.free_slots,
            forward_share=self._planner.forward_throttle.share,
            sae_share=self._planner.sae_throttle.share,
        )

    def check_integrity(self) -> None:
        """Raises IntegrityError unless queues, slots, deadlines and counts add up. O(jobs)."""
        waiting = [job for backlog in self._backlogs.values() for job in backlog]
        for backlog in self._backlogs.values():
            backlog.check_integrity()
        self._ledger.check_integrity(waiting)
        self._streams.check_integrity()

        ids = {job.id for job in waiting}
        expect(len(ids) == len(waiting), "a job waits twice")
        expect(ids <= self._entries.keys(), "a job waits that was never admitted or has ended")
        streams = timed = 0
        for job_id, entry in self._entries.items():
            expect(entry.job.id == job_id, f"{job_id!r} is filed as {entry.job.id!r}")
            expect(entry.running != (job_id in ids), f"{job_id!r} neither waits nor runs, or both")
            is_stream = entry.running and entry.job.kind is Kind.STEER
            expect(is_stream == (job_id in self._streams), f"{job_id!r}: stream without slots")
            is_timed = entry.job.deadline is not None and (is_stream or not entry.running)
            expect(is_timed == (job_id in self._deadlines), f"{job_id!r}: deadline lost or kept")
            streams += is_stream
            timed += is_timed
        expect(streams == len(self._streams), "a stream outlived its job")
        expect(timed == len(self._deadlines), "a deadline outlived its job")

    def _refuse_if_draining(self, n_jobs: int) -> None:
        if self.draining:
            raise DrainingError(
                "the scheduler is draining",
                limit="draining",
                value=n_jobs,
                allowed=0,
                retry_after_s=self._pace.seconds_for(self._ledger.tokens),
            )

    # ---- a job's course

    def _enqueue(self, entry: _Entry, *, front: bool = False) -> None:
        job = entry.job
        self._backlogs[job.kind].push(job, entry.arrival, front=front)
        self._ledger.add(job)
        if job.deadline is not None:
            self._deadlines.add(job.deadline, job.id)

    def _leave_queue(self, job: Job) -> None:
        self._entries[job.id].running = True
        self._ledger.remove(job)
        self._taken_tokens += job.cost

    def _requeue(self, job: Job) -> None:
        entry = self._entries[job.id]
        if entry.cancelled:
            self._drop_running(job, DropReason.CANCELLED)
        else:
            entry.running = False
            self._enqueue(entry, front=True)

    def _drop(self, now: float) -> tuple[Drop, ...]:
        for job_id in self._cancelled_streams:
            # It may have come to its own end since.
            if job_id in self._streams:
                self._drop_running(self._entries[job_id].job, DropReason.CANCELLED)
        self._cancelled_streams.clear()
        for job_id in self._deadlines.pop_due(now):
            entry = self._entries[job_id]
            if entry.running:
                self._drop_running(entry.job, DropReason.EXPIRED)
            else:
                self._drop_waiting(entry.job, DropReason.EXPIRED)
        dropped, self._dropped = tuple(self._dropped), []
        return dropped

    def _drop_waiting(self, job: Job, reason: DropReason) -> None:
        self._backlogs[job.kind].remove(job)
        self._ledger.remove(job)
        self._drop_running(job, reason)

    def _drop_running(self, job: Job, reason: DropReason) -> None:
        self._end(job)
        self._dropped.append(Drop(job, reason))

    def _end(self, job: Job) -> None:
        del self._entries[job.id]
        self._deadlines.discard(job.id)
        self._streams.end(job.id)

    def _running(self, job_id: JobId) -> Job:
        entry = self._entries.get(job_id)
        if entry is None or not entry.running:
            raise LookupError(f"job {job_id!r}: expected one that runs")
        return entry.job

    def _record_pace(self, now: float) -> None:
        if self._busy_since is not None:
            self._pace.record(self._taken_tokens, now - self._busy_since)
            self._busy_since, self._taken_tokens = None, 0
