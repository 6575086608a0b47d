"""Callers that take turns."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Generic, TypeVar

from saekit_server.scheduler.job import Job, JobId

J = TypeVar("J", bound=Job)


class FairQueue(Generic[J]):
    """A line of jobs per caller, and the callers in the order of their turns.

    OrderedDict, because a plain dict walks over all that was deleted at its front: here the first
    of a line, and the removal of any job, are O(1) at every length.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[JobId, J]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[J]:
        for line in self._lines.values():
            yield from line.values()

    def push(self, job: J, *, front: bool = False) -> None:
        """Appends to the caller's line; `front` puts a job back that had been taken."""
        line = self._lines.get(job.caller)
        if line is None:
            line = self._lines[job.caller] = OrderedDict()
        line[job.id] = job
        if front:
            line.move_to_end(job.id, last=False)

    def remove(self, job: J) -> None:
        line = self._lines[job.caller]
        del line[job.id]
        if not line:
            del self._lines[job.caller]

    def first(self) -> J:
        """The oldest job of the caller whose turn it is."""
        line = next(iter(self._lines.values()))
        return next(iter(line.values()))

    def end_turn(self, caller: str) -> None:
        """Sends a caller behind all others."""
        if caller in self._lines:
            self._lines.move_to_end(caller)

    def in_turn(self, limit: int) -> list[J]:
        """Up to `limit` jobs: every caller's first, then every caller's second, and so on."""
        if len(self._lines) >= limit:
            return [next(iter(line.values())) for line in islice(self._lines.values(), limit)]
        lines = [iter(line.values()) for line in self._lines.values()]
        jobs: list[J] = []
        while lines and len(jobs) < limit:
            depth = -(-(limit - len(jobs)) // len(lines))
            taken = [list(islice(line, depth)) for line in lines]
            jobs += [job for turn in zip_longest(*taken) for job in turn if job is not None]
            # Whoever has more than `depth` shares what the shorter lines have left over.
            lines = [line for line, got in zip(lines, taken, strict=True) if len(got) == depth]
        return jobs[:limit]
