"""Everything of one kind that waits."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, NamedTuple

from saekit_server.scheduler.errors import expect
from saekit_server.scheduler.fair_queue import FairQueue, J
from saekit_server.scheduler.job import Priority
from saekit_server.scheduler.timeline import Timeline


class Window(NamedTuple, Generic[J]):
    """Jobs that may join the leader's batch, each list in the order of the callers' turns."""

    peers: list[J]
    """Of the leader's own priority; the leader is the first."""

    guests: list[J]
    """Of the other priority; they get the room that the peers leave."""


class _Lane(Generic[J]):
    """The waiting jobs of one priority, by turn, by group and by age."""

    def __init__(self) -> None:
        self.turns: FairQueue[J] = FairQueue()
        self.groups: dict[Hashable, FairQueue[J]] = {}
        self.arrivals = Timeline()

    def push(self, job: J, arrival: float, front: bool) -> None:
        self.turns.push(job, front=front)
        group = self.groups.get(job.group)
        if group is None:
            group = self.groups[job.group] = FairQueue()
        group.push(job, front=front)
        self.arrivals.add(arrival, job.id)

    def remove(self, job: J) -> None:
        self.turns.remove(job)
        group = self.groups[job.group]
        group.remove(job)
        if not group:
            del self.groups[job.group]
        self.arrivals.discard(job.id)

    def of_group(self, key: Hashable, limit: int) -> list[J]:
        group = self.groups.get(key)
        return group.in_turn(limit) if group is not None and limit > 0 else []


class Backlog(Generic[J]):
    """Two priorities, in each of which the callers take turns.

    A batch is always built around a leader: the oldest job of the caller whose turn it is. So
    whatever else is picked for its fitting length, each turn serves the one who waited for it,
    and nothing starves. INTERACTIVE leads before BATCH, but once a BATCH job has waited
    `age_cap_s`, the two lead alternately.
    """

    def __init__(self, age_cap_s: float) -> None:
        self._age_cap_s = age_cap_s
        self._lanes: dict[Priority, _Lane[J]] = {priority: _Lane() for priority in Priority}
        self._led_last = Priority.BATCH
        self.jobs = 0
        self.tokens = 0

    def __bool__(self) -> bool:
        return self.jobs > 0

    def __iter__(self) -> Iterator[J]:
        for lane in self._lanes.values():
            yield from lane.turns

    @property
    def oldest_arrival(self) -> float | None:
        """Clock time at which the longest waiting job was admitted."""
        arrivals = (lane.arrivals.first() for lane in self._lanes.values())
        return min((time for time in arrivals if time is not None), default=None)

    def arrival(self, job: J) -> float:
        """Clock time at which a waiting job was admitted."""
        return self._lanes[job.priority].arrivals.time_of(job.id)

    def push(self, job: J, arrival: float, *, front: bool = False) -> None:
        """`front` puts a job back to the head of its caller's line."""
        self._lanes[job.priority].push(job, arrival, front)
        self.jobs += 1
        self.tokens += job.cost

    def remove(self, job: J) -> None:
        self._lanes[job.priority].remove(job)
        self.jobs -= 1
        self.tokens -= job.cost

    def leader(self, now: float) -> J | None:
        """The job whose turn it is, or None when nothing waits."""
        interactive, batch = self._lanes[Priority.INTERACTIVE], self._lanes[Priority.BATCH]
        if not interactive.turns:
            return batch.turns.first() if batch.turns else None
        oldest = batch.arrivals.first()
        overdue = oldest is not None and now - oldest >= self._age_cap_s
        if overdue and self._led_last is not Priority.BATCH:
            return batch.turns.first()
        return interactive.turns.first()

    def window(self, leader: J, limit: int) -> Window[J]:
        """Up to `limit` jobs of the leader's group, itself included."""
        guest_priority = Priority(1 - leader.priority)
        peers = self._lanes[leader.priority].of_group(leader.group, limit)
        if leader in peers:
            peers.remove(leader)
        peers = [leader, *peers][:limit]
        guests = self._lanes[guest_priority].of_group(leader.group, limit - len(peers))
        return Window(peers, guests)

    def take(self, leader: J, batch: Iterable[J]) -> None:
        """Removes a batch; the leader's caller has had its turn.

        Those who only joined keep their turns, or a caller whose short jobs join every batch would
        never get to lead with its long one.
        """
        for job in batch:
            self.remove(job)
            lane = self._lanes[job.priority]
            if job.group in lane.groups:
                lane.groups[job.group].end_turn(job.caller)
        self._lanes[leader.priority].turns.end_turn(leader.caller)
        self._led_last = leader.priority

    def check_integrity(self) -> None:
        """Raises IntegrityError unless the three orders of each lane hold the same jobs."""
        jobs = list(self)
        expect(self.jobs == len(jobs), f"{self.jobs} jobs counted, {len(jobs)} waiting")
        cost = sum(job.cost for job in jobs)
        expect(self.tokens == cost, f"{self.tokens} tokens counted, {cost} waiting")
        for priority, lane in self._lanes.items():
            ids = {job.id for job in lane.turns}
            grouped = [job for group in lane.groups.values() for job in group]
            expect(all(lane.groups.values()), f"{priority.name}: an empty group is kept")
            expect(len(grouped) == len(ids), f"{priority.name}: {len(grouped)} jobs in groups")
            expect({job.id for job in grouped} == ids, f"{priority.name}: groups and turns differ")
            expect(len(lane.arrivals) == len(ids), f"{priority.name}: arrivals and turns differ")
            expect(all(i in lane.arrivals for i in ids), f"{priority.name}: arrival unknown")
