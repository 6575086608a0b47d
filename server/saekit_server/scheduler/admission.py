"""What may wait, and how much of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saekit_server.scheduler.errors import (
    AdmissionError,
    NeverFitsError,
    QueueFullError,
    QuotaExceededError,
    expect,
)
from saekit_server.scheduler.job import ForwardJob, Job, SAEJob, SteerJob
from saekit_server.scheduler.limits import Limits
from saekit_server.scheduler.pace import Pace


@dataclass(eq=False)
class Room:
    """Places in the queue for jobs of a caller that are still being made."""

    caller: str
    jobs: int
    """0 once it is given back."""


class Ledger:
    """Jobs and tokens that wait, in all and of each caller, and the room that is kept for more."""

    def __init__(self) -> None:
        self.jobs = 0
        self.tokens = 0
        self.kept_jobs = 0
        self._callers: dict[str, tuple[int, int]] = {}
        self._kept: Counter[str] = Counter()

    def of(self, caller: str) -> tuple[int, int]:
        """Jobs and tokens of one caller."""
        return self._callers.get(caller, (0, 0))

    def kept_for(self, caller: str) -> int:
        """Jobs of one caller that room is kept for."""
        return self._kept[caller]

    def keep(self, room: Room) -> None:
        self.kept_jobs += room.jobs
        self._kept[room.caller] += room.jobs

    def give_back(self, room: Room) -> None:
        self.kept_jobs -= room.jobs
        self._kept[room.caller] -= room.jobs
        if not self._kept[room.caller]:
            del self._kept[room.caller]
        room.jobs = 0

    def add(self, job: Job) -> None:
        self._change(job.caller, 1, job.cost)

    def remove(self, job: Job) -> None:
        self._change(job.caller, -1, -job.cost)

    def _change(self, caller: str, jobs: int, tokens: int) -> None:
        self.jobs += jobs
        self.tokens += tokens
        caller_jobs, caller_tokens = self.of(caller)
        if caller_jobs + jobs:
            self._callers[caller] = (caller_jobs + jobs, caller_tokens + tokens)
        else:
            # Callers come and go without end; the books keep those who wait.
            del self._callers[caller]

    def check_integrity(self, waiting: Sequence[Job]) -> None:
        """Raises IntegrityError unless the counts are those of the jobs that wait."""
        counted: dict[str, tuple[int, int]] = {}
        for job in waiting:
            jobs, tokens = counted.get(job.caller, (0, 0))
            counted[job.caller] = (jobs + 1, tokens + job.cost)
        expect(counted == self._callers, f"callers {self._callers}, waiting {counted}")
        expect(self.jobs == len(waiting), f"{self.jobs} jobs counted, {len(waiting)} waiting")
        expect(self.tokens == sum(job.cost for job in waiting), f"{self.tokens} tokens counted")
        kept = self._kept.total()
        expect(kept == self.kept_jobs >= 0, f"room for {self.kept_jobs} kept, {kept} counted")
        expect(all(jobs > 0 for jobs in self._kept.values()), f"room kept: {self._kept}")


def check_fits(job: Job, limits: Limits) -> None:
    """Raises NeverFitsError for a job that no batch could hold even alone."""
    match job:
        case ForwardJob():
            _never(job, "max_batch_tokens", job.cost, limits.max_batch_tokens)
            size = job.cost * job.bytes_per_token
            _never(job, "max_batch_bytes", size, limits.max_batch_bytes)
        case SAEJob():
            _never(job, "max_sae_rows", job.rows, limits.max_sae_rows)
            _never(job, "max_batch_bytes", job.bytes, limits.max_batch_bytes)
        case SteerJob():
            _never(job, "n_slots", job.slots, limits.n_slots)
            size = job.slots * job.bytes_per_token
            _never(job, "max_batch_bytes", size, limits.max_batch_bytes)


def check_room(jobs: Sequence[Job], limits: Limits, ledger: Ledger, pace: Pace) -> None:
    """Raises unless the queue, and the caller's share of it, can take all of `jobs`, of one caller.

    NeverFitsError: not even an empty queue could; QuotaExceededError; QueueFullError.
    """
    n_jobs, n_tokens = len(jobs), sum(job.cost for job in jobs)
    _never(jobs[0], "max_caller_jobs", n_jobs, limits.max_caller_jobs)
    _never(jobs[0], "max_caller_tokens", n_tokens, limits.max_caller_tokens)
    check_counts(jobs[0].caller, n_jobs, n_tokens, limits=limits, ledger=ledger, pace=pace)


def check_counts(
    caller: str, jobs: int, tokens: int, *, limits: Limits, ledger: Ledger, pace: Pace
) -> None:
    """Raises unless so much more may wait: QuotaExceededError, QueueFullError."""
    # What waits now is worked off by then: any shorter, and under overload all who were refused
    # would come back together to find the queue full again.
    wait_s = pace.seconds_for(ledger.tokens)
    owjobs, owtokens = ledger.of(caller)
    # What room is kept for has a token at least.
    own, all_ = ledger.kept_for(caller), ledger.kept_jobs
    quota, full = QuotaExceededError, QueueFullError
    _check(quota, "max_caller_jobs", own + owjobs + jobs, limits.max_caller_jobs, wait_s)
    _check(quota, "max_caller_tokens", own + owtokens + tokens, limits.max_caller_tokens, wait_s)
    _check(full, "max_queued_jobs", all_ + ledger.jobs + jobs, limits.max_queued_jobs, wait_s)
    _check(
        full, "max_queued_tokens", all_ + ledger.tokens + tokens, limits.max_queued_tokens, wait_s
    )


def _check(
    error: type[AdmissionError], limit: str, value: int, allowed: int, wait_s: float
) -> None:
    if value > allowed:
        raise error(
            f"{limit} is {allowed}, with this request {value} would wait",
            limit=limit,
            value=value,
            allowed=allowed,
            retry_after_s=wait_s,
        )


def _never(job: Job, limit: str, value: int, allowed: int) -> None:
    if value > allowed:
        raise NeverFitsError(
            f"{job.kind.value} job needs {value}, but {limit} is {allowed}",
            limit=limit,
            value=value,
            allowed=allowed,
            retry_after_s=None,
        )
