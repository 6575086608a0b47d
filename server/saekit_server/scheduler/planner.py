"""Which of the waiting jobs run in a tick."""

from typing import Any

from saekit_server.scheduler.backlog import Backlog
from saekit_server.scheduler.job import ForwardJob, Job, Kind, SAEJob, SteerJob
from saekit_server.scheduler.limits import Budget, Limits
from saekit_server.scheduler.packing import forward_use, pack_forward, pack_sae, sae_use
from saekit_server.scheduler.streams import Streams, plan_prefill, prefill_use
from saekit_server.scheduler.throttle import Throttle
from saekit_server.scheduler.tick import Prefill


class Planner:
    """Cuts the batches of a tick out of what waits, under the budgets."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._forward: Backlog[ForwardJob] = Backlog(limits.age_cap_s)
        self._sae: Backlog[SAEJob] = Backlog(limits.age_cap_s)
        self._steer: Backlog[SteerJob] = Backlog(limits.age_cap_s)
        self.backlogs: dict[Kind, Backlog[Any]] = {
            Kind.FORWARD: self._forward,
            Kind.SAE: self._sae,
            Kind.STEER: self._steer,
        }
        self.streams = Streams(limits.n_slots)
        self.forward_throttle = Throttle(limits.forward_budget(mixed=False))
        self.sae_throttle = Throttle(limits.sae_budget(mixed=False))
        self._forward_waited = False

    def start_streams(self, now: float) -> list[SteerJob]:
        """Gives free slots to waiting streams, in turn.

        One that needs more than are free is overtaken by smaller ones until it reaches the age
        cap; from then on the slots that come free are kept for it.
        """
        started = []
        while self.streams.free_slots and (leader := self._steer.leader(now)) is not None:
            if leader.slots <= self.streams.free_slots:
                self._steer.take(leader, [leader])
                self.streams.start(leader)
                started.append(leader)
                continue
            if now - self._steer.arrival(leader) < self._limits.age_cap_s:
                window = self._steer.window(leader, self._limits.window)
                for job in (*window.peers, *window.guests):
                    if job.slots <= self.streams.free_slots:
                        self._steer.remove(job)
                        self.streams.start(job)
                        started.append(job)
            break
        return started

    def plan_forward(
        self, now: float, *, mixed: bool
    ) -> tuple[tuple[ForwardJob, ...], tuple[Prefill, ...]]:
        """The forward batch and the prefill, which share the tick's tokens.

        Each may have what the other does not want, and half of them when both want all.
        """
        self.forward_throttle.recover()
        budget = self.forward_throttle.apply(self._limits.forward_budget(mixed=mixed))
        prefilling = self.streams.prefilling()
        if prefilling:
            # Under the throttle's ceiling a prompt moves by one token at least.
            budget = budget._replace(tokens=max(budget.tokens, prefilling[0].job.slots))
        leader = self._forward.leader(now) if self._is_due(self._forward, budget, now) else None
        if leader is None:
            return (), self.streams.prefill(budget)

        half = budget._replace(tokens=budget.tokens // 2)
        reserve = prefill_use(plan_prefill(prefilling, half)).tokens
        alone = forward_use([leader])
        room = budget._replace(tokens=budget.tokens - reserve)
        if alone.tokens > room.tokens or alone.bytes > room.bytes:
            # It cannot be cut in pieces, so prefill and it go one after the other.
            if reserve and not self._forward_waited:
                self._forward_waited = True
                return (), self.streams.prefill(budget)
            room = Budget(max(budget.tokens, alone.tokens), max(budget.bytes, alone.bytes))
        self._forward_waited = False
        window = self._forward.window(leader, self._limits.window)
        batch = pack_forward(leader, window, room, self._limits.batch_overhead_tokens)
        self._forward.take(leader, batch)
        left = max(0, budget.tokens - forward_use(batch).tokens)
        return tuple(batch), self.streams.prefill(budget._replace(tokens=left))

    def plan_sae(self, now: float, *, mixed: bool) -> tuple[SAEJob, ...]:
        """The SAE-only batch."""
        self.sae_throttle.recover()
        budget = self.sae_throttle.apply(self._limits.sae_budget(mixed=mixed))
        leader = self._sae.leader(now) if self._is_due(self._sae, budget, now) else None
        if leader is None:
            return ()
        room = Budget(max(budget.tokens, leader.rows), max(budget.bytes, leader.bytes))
        batch = pack_sae(self._sae.window(leader, self._limits.window), room)
        self._sae.take(leader, batch)
        return tuple(batch)

    def shrink(self, jobs: list[Job]) -> bool:
        """Lowers the ceiling to half of what a batch of running jobs took in the last tick.

        False, and nothing is changed, when no ceiling would make it smaller.
        """
        forward = [job for job in jobs if isinstance(job, ForwardJob)]
        sae = [job for job in jobs if isinstance(job, SAEJob)]
        pieces = [(s, s.piece) for job in jobs if (s := self.streams.get(job.id)) is not None]
        if len(jobs) > max(len(forward), len(sae), len(pieces)):
            raise ValueError(f"jobs {[job.id for job in jobs]!r}: expected those of one batch")
        if pieces:
            longest = max(tokens for _, tokens in pieces)
            if longest == 0 or (len(pieces) == 1 and longest == 1):
                return False
            self.forward_throttle.halve(prefill_use(pieces))
            for stream, _ in pieces:
                stream.take_back()
            return True
        if len(jobs) <= 1:
            return False
        if forward:
            self.forward_throttle.halve(forward_use(forward))
        else:
            self.sae_throttle.halve(sae_use(sae))
        return True

    def delayed_until(self) -> float | None:
        """Clock time at which a batch has waited `max_delay_s`, if there is such a delay."""
        if not self._limits.max_delay_s:
            return None
        arrivals = (self._forward.oldest_arrival, self._sae.oldest_arrival)
        oldest = min((arrival for arrival in arrivals if arrival is not None), default=None)
        return None if oldest is None else oldest + self._limits.max_delay_s

    def _is_due(self, backlog: Backlog[Any], budget: Budget, now: float) -> bool:
        """Whether a batch need not wait for company any longer."""
        if not self._limits.max_delay_s or backlog.tokens >= budget.tokens:
            return True
        arrival = backlog.oldest_arrival
        return arrival is not None and now >= arrival + self._limits.max_delay_s
