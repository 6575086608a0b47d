"""What the scheduler promises whatever arrives, under a clock that only the test moves."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from saekit_server.scheduler import (
    AdmissionError,
    DropReason,
    ForwardJob,
    Job,
    JobId,
    Limits,
    Priority,
    SAEJob,
    Scheduler,
    SteerJob,
    Tick,
)
from saekit_server.scheduler.backlog import Window
from saekit_server.scheduler.fair_queue import FairQueue
from saekit_server.scheduler.limits import Budget
from saekit_server.scheduler.packing import forward_use, pack_forward, sae_use
from saekit_server.scheduler.timeline import Timeline

LIMITS = Limits(
    n_slots=4,
    max_batch_tokens=64,
    mixed_batch_tokens=16,
    max_batch_bytes=1000,
    max_sae_rows=50,
    mixed_sae_rows=20,
    max_queued_jobs=24,
    max_queued_tokens=600,
    max_caller_jobs=12,
    max_caller_tokens=400,
    window=8,
    batch_overhead_tokens=10,
    age_cap_s=3.0,
)
ROOMY = replace(
    LIMITS,
    max_queued_jobs=100_000,
    max_caller_jobs=100_000,
    max_queued_tokens=10_000_000,
    max_caller_tokens=10_000_000,
)

CALLERS = st.sampled_from(["ann", "bob", "cat"])
PRIORITIES = st.sampled_from(Priority)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def check_budgets(tick: Tick, limits: Limits) -> None:
    """No tick takes more than it may: tokens with their padding, rows, bytes."""
    mixed = bool(tick.decode)
    tokens = limits.mixed_batch_tokens if mixed else limits.max_batch_tokens
    rows = limits.mixed_sae_rows if mixed else limits.max_sae_rows
    if tick.forward:
        use = forward_use(tick.forward)
        assert use.tokens == tick.forward_padded_tokens
        assert use.bytes <= limits.max_batch_bytes
        assert len({job.group for job in tick.forward}) == 1
        if use.tokens > tokens:
            # One text cannot be cut in pieces: it runs with nothing beside it.
            assert len(tick.forward) == 1
            assert not tick.prefill
            tokens = limits.max_batch_tokens
    assert tick.forward_padded_tokens + tick.prefill_padded_tokens <= tokens
    if tick.prefill:
        longest = max(piece.tokens for piece in tick.prefill)
        weight = sum(piece.job.slots * piece.job.bytes_per_token for piece in tick.prefill)
        assert longest * weight <= limits.max_batch_bytes
    if tick.sae:
        use = sae_use(tick.sae)
        assert use.bytes <= limits.max_batch_bytes
        assert use.tokens <= (rows if len(tick.sae) > 1 else limits.max_sae_rows)
        assert len({job.group for job in tick.sae}) == 1


class SchedulerMachine(RuleBasedStateMachine):
    """Callers, a device and an unkind world around one scheduler.

    The model is what the outside may know of the jobs that were admitted and have not ended.
    """

    jobs = Bundle("jobs")
    seconds = st.one_of(st.none(), st.floats(0, 6))

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limits = LIMITS
        self.admitted = 0
        self.live: dict[JobId, Job] = {}
        self.cancelled: set[JobId] = set()
        self.ends: Counter[JobId] = Counter()
        self.prefilled: dict[JobId, int] = {}
        self.slots: dict[JobId, tuple[int, ...]] = {}

    @initialize(delay=st.sampled_from([0.0, 0.0, 2.0]), n_slots=st.integers(0, 4))
    def start(self, delay: float, n_slots: int) -> None:
        self.limits = replace(LIMITS, max_delay_s=delay, n_slots=n_slots)
        self.scheduler = Scheduler(self.limits, self.clock)

    # ---- callers

    @rule(
        target=jobs,
        caller=CALLERS,
        priority=PRIORITIES,
        lengths=st.lists(st.integers(1, 66), min_size=1, max_size=5),
        rows=st.sampled_from([1, 1, 2, 3]),
        bytes_per_token=st.sampled_from([0, 5, 15, 30]),
        group=st.sampled_from([None, None, "bridge"]),
        seconds=seconds,
    )
    def admit_texts(
        self,
        *,
        caller: str,
        priority: Priority,
        lengths: list[int],
        rows: int,
        bytes_per_token: int,
        group: str | None,
        seconds: float | None,
    ) -> object:
        return self.admit(
            *(
                ForwardJob(
                    id=self.admitted + i,
                    caller=caller,
                    priority=priority,
                    deadline=self.deadline(seconds),
                    group=group,
                    tokens=tokens,
                    rows=rows,
                    bytes_per_token=bytes_per_token,
                )
                for i, tokens in enumerate(lengths)
            )
        )

    @rule(
        target=jobs,
        caller=CALLERS,
        priority=PRIORITIES,
        rows=st.integers(1, 52),
        size=st.integers(0, 1002),
        group=st.sampled_from(["encode", "decode"]),
        seconds=seconds,
    )
    def admit_activations(
        self,
        *,
        caller: str,
        priority: Priority,
        rows: int,
        size: int,
        group: str,
        seconds: float | None,
    ) -> object:
        return self.admit(
            SAEJob(
                id=self.admitted,
                caller=caller,
                priority=priority,
                deadline=self.deadline(seconds),
                group=group,
                rows=rows,
                bytes=size,
            )
        )

    @rule(
        target=jobs,
        caller=CALLERS,
        priority=PRIORITIES,
        tokens=st.integers(1, 100),
        slots=st.integers(1, 4),
        bytes_per_token=st.sampled_from([0, 0, 10, 100, 251]),
        seconds=seconds,
    )
    def admit_stream(
        self,
        *,
        caller: str,
        priority: Priority,
        tokens: int,
        slots: int,
        bytes_per_token: int,
        seconds: float | None,
    ) -> object:
        return self.admit(
            SteerJob(
                id=self.admitted,
                caller=caller,
                priority=priority,
                deadline=self.deadline(seconds),
                tokens=tokens,
                slots=slots,
                bytes_per_token=bytes_per_token,
            )
        )

    def deadline(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.clock.now + seconds

    def admit(self, *jobs: Job) -> object:
        refusal = None
        try:
            self.scheduler.admit(*jobs)
        except AdmissionError as error:
            refusal = error
        if refusal is not None:
            assert refusal.value > refusal.allowed == getattr(self.limits, refusal.limit)
            return multiple()
        figures = self.scheduler.figures()
        assert figures.queued_jobs <= self.limits.max_queued_jobs
        assert figures.queued_tokens <= self.limits.max_queued_tokens
        self.live |= {job.id: job for job in jobs}
        self.admitted += len(jobs)
        return multiple(*(job.id for job in jobs))

    @rule(job_id=jobs)
    def cancel(self, job_id: JobId) -> None:
        if self.scheduler.cancel(job_id):
            assert job_id in self.live
            self.cancelled.add(job_id)
        else:
            assert job_id not in self.live or job_id in self.cancelled

    # ---- the device

    @rule(
        seconds=st.floats(0, 2),
        out_of_memory=st.sampled_from([None, None, None, "forward", "sae", "prefill"]),
        hang_up=st.booleans(),
    )
    def tick(self, seconds: float, out_of_memory: str | None, hang_up: bool) -> None:
        self.clock.now += seconds
        tick = self.scheduler.tick()
        check_budgets(tick, self.limits)
        for job, reason in tick.dropped:
            if reason is DropReason.CANCELLED:
                assert job.id in self.cancelled
            else:
                assert job.deadline is not None
                assert job.deadline <= self.clock.now
            self.end(job.id)
        assert not self.cancelled & self.live.keys(), "cancelled work is kept"
        self.check_streams(tick)
        for job in (*tick.forward, *tick.sae):
            self.check_may_run(job)
        if not tick.has_work and self.live:
            # An owner that sleeps now has to know when to wake.
            wake = self.scheduler.next_deadline()
            assert wake is not None
            assert wake > self.clock.now

        pieces = {piece.job.id: piece.tokens for piece in tick.prefill}
        if out_of_memory == "prefill" and pieces and self.scheduler.back_off(list(pieces)):
            for job_id, tokens in pieces.items():
                self.prefilled[job_id] -= tokens
        for name, batch in (("forward", tick.forward), ("sae", tick.sae)):
            ids = [job.id for job in batch]
            if ids and hang_up:
                self.cancel(ids[0])
            if name == out_of_memory and self.scheduler.back_off(ids):
                assert len(ids) > 1
            else:
                for job_id in ids:
                    self.finish(job_id)

    @rule(job_id=jobs)
    def end_stream(self, job_id: JobId) -> None:
        if job_id in self.prefilled:
            self.finish(job_id)

    def check_may_run(self, job: Job) -> None:
        assert job.id in self.live, "work ran that had ended"
        assert job.id not in self.cancelled, "cancelled work ran"
        assert job.deadline is None or job.deadline > self.clock.now, "expired work ran"

    def check_streams(self, tick: Tick) -> None:
        complete = {i for i, n in self.prefilled.items() if n == self.prompt(i)}
        assert {job.id for job in tick.decode} == complete
        assert len(tick.decode) == len(complete)
        for job, slots, start, tokens in tick.prefill:
            self.check_may_run(job)
            assert start == self.prefilled.setdefault(job.id, 0)
            assert 0 < tokens <= job.tokens - start
            assert slots == self.slots.setdefault(job.id, slots)
            assert len(slots) == job.slots
            self.prefilled[job.id] += tokens
        held = [slot for slots in self.slots.values() for slot in slots]
        assert len(held) == len(set(held)) <= self.limits.n_slots

    def prompt(self, job_id: JobId) -> int:
        job = self.live[job_id]
        assert isinstance(job, SteerJob)
        return job.tokens

    def finish(self, job_id: JobId) -> None:
        self.scheduler.finish(job_id)
        self.end(job_id)

    def end(self, job_id: JobId) -> None:
        self.ends[job_id] += 1
        del self.live[job_id]
        self.cancelled.discard(job_id)
        self.prefilled.pop(job_id, None)
        self.slots.pop(job_id, None)

    @invariant()
    def books_add_up(self) -> None:
        if self.admitted:
            self.scheduler.check_integrity()
            figures = self.scheduler.figures()
            assert len(self.live) - figures.queued_jobs - figures.running_jobs >= 0
            assert self.live or self.scheduler.idle

    def teardown(self) -> None:
        """Whatever happened before: all that was admitted ends, exactly once."""
        if not self.admitted:
            return
        self.scheduler.drain()
        for _ in range(2000):
            if self.scheduler.idle:
                break
            self.tick(0.1, None, hang_up=False)
            for job_id in [i for i, n in self.prefilled.items() if n == self.prompt(i)]:
                self.finish(job_id)
        assert self.scheduler.idle
        assert self.ends == Counter(range(self.admitted))


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# ---- nothing starves


class Flood:
    """Others who admit as much as the queue takes, before every tick."""

    def __init__(self, scheduler: Scheduler, lengths: list[int], callers: int, seed: int) -> None:
        self.scheduler = scheduler
        self.lengths = lengths
        self.callers = callers
        self.random = random.Random(seed)
        self.count = 0

    def pour(self, n: int, priority: Priority) -> None:
        for _ in range(n):
            self.count += 1
            job = ForwardJob(
                id=f"flood {self.count}",
                caller=f"other {self.random.randrange(self.callers)}",
                priority=priority,
                tokens=self.random.choice(self.lengths),
            )
            self.scheduler.admit(job)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 64),
    priority=PRIORITIES,
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=4),
    callers=st.integers(1, 4),
    position=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_nothing_starves_whatever_else_arrives(
    *, tokens: int, priority: Priority, lengths: list[int], callers: int, position: int, seed: int
) -> None:
    clock = Clock()
    scheduler = Scheduler(ROOMY, clock)
    flood = Flood(scheduler, lengths, callers, seed)
    for each in Priority:
        flood.pour(100, each)
    scheduler.admit(
        *(
            ForwardJob(id=i, caller="victim", priority=priority, tokens=tokens)
            for i in range(position)
        )
    )
    # Each turn of the victim's serves one of its jobs at least; overdue work of the other
    # priority takes every other batch; and BATCH work first has to be overdue.
    bound = 2 * position * (callers + 1) + 1
    if priority is Priority.BATCH:
        bound += math.ceil(ROOMY.age_cap_s / 0.5)
    ended: set[JobId] = set()
    for _ in range(bound):
        clock.now += 0.5
        for each in Priority:
            flood.pour(10, each)
        tick = scheduler.tick()
        check_budgets(tick, ROOMY)
        for job in tick.forward:
            scheduler.finish(job.id)
            ended.add(job.id)
    assert set(range(position)) <= ended


@settings(deadline=None, max_examples=40)
@given(
    prompt=st.integers(1, 300),
    slots=st.integers(1, 4),
    decoding=st.booleans(),
    length=st.sampled_from([1, 8, 16, 33, 64]),
)
def test_a_prompt_is_prefilled_whatever_texts_arrive(
    prompt: int, slots: int, decoding: bool, length: int
) -> None:
    scheduler = Scheduler(replace(ROOMY, n_slots=5, mixed_batch_tokens=16), Clock())
    if decoding:
        scheduler.admit(SteerJob(id="other", caller="bob", tokens=1))
        scheduler.tick()
    flood = Flood(scheduler, [length], callers=3, seed=0)
    flood.pour(100, Priority.INTERACTIVE)
    scheduler.admit(SteerJob(id="victim", caller="ann", tokens=prompt, slots=slots))
    budget = ROOMY.mixed_batch_tokens if decoding else ROOMY.max_batch_tokens
    # Half of every tick's tokens, or all of every other tick's.
    piece = budget // 2 // slots
    for _ in range(2 * math.ceil(prompt / piece) + 2):
        flood.pour(20, Priority.INTERACTIVE)
        tick = scheduler.tick()
        check_budgets(tick, scheduler.limits)
        for job in tick.forward:
            scheduler.finish(job.id)
    assert "victim" in {job.id for job in scheduler.tick().decode}


@settings(deadline=None, max_examples=40)
@given(
    slots=st.integers(1, 4),
    priority=PRIORITIES,
    steps=st.integers(1, 5),
    widths=st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
def test_no_stream_waits_for_ever_for_its_slots(
    slots: int, priority: Priority, steps: int, widths: list[int]
) -> None:
    clock = Clock()
    scheduler = Scheduler(ROOMY, clock)
    scheduler.admit(SteerJob(id="victim", caller="ann", tokens=1, slots=slots, priority=priority))
    age: Counter[JobId] = Counter()
    # Overdue by then; at most two others lead before it, each a life long.
    for tick_number in range(math.ceil(ROOMY.age_cap_s / 0.5) + 3 * (steps + 2)):
        clock.now += 0.5
        for i, width in enumerate(widths):
            scheduler.admit(SteerJob(id=(tick_number, i), caller="bob", tokens=1, slots=width))
        tick = scheduler.tick()
        if any(piece.job.id == "victim" for piece in tick.prefill):
            return
        for job in tick.decode:
            age[job.id] += 1
            if age[job.id] == steps:
                scheduler.finish(job.id)
    pytest.fail("the stream never got its slots")


# ---- callers


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(1, 32),
    few=st.integers(1, 5),
    many=st.integers(300, 3000),
    seed=st.integers(0, 99),
)
def test_ten_thousand_jobs_of_one_caller_do_not_delay_another(
    tokens: int, few: int, many: int, seed: int
) -> None:
    scheduler = Scheduler(ROOMY, Clock())
    Flood(scheduler, [1, 5, 20, 64], callers=1, seed=seed).pour(many, Priority.INTERACTIVE)
    scheduler.admit(*(ForwardJob(id=i, caller="small", tokens=tokens) for i in range(few)))
    for _ in range(2 * few):
        for job in scheduler.tick().forward:
            scheduler.finish(job.id)
    assert scheduler.figures().queued_jobs > 0
    assert all(not scheduler.cancel(i) for i in range(few))


@settings(deadline=None, max_examples=40)
@given(tokens=st.integers(1, 64), callers=st.integers(2, 5), head_start=st.integers(0, 200))
def test_callers_with_like_work_are_served_alike(
    tokens: int, callers: int, head_start: int
) -> None:
    scheduler = Scheduler(ROOMY, Clock())
    for i in range(head_start + 100 * callers):
        name = 0 if i < head_start else i % callers
        scheduler.admit(ForwardJob(id=i, caller=f"caller {name}", tokens=tokens))
    served: Counter[str] = Counter({f"caller {i}": 0 for i in range(callers)})
    while min(served.values()) < 90:
        tick = scheduler.tick()
        served.update(job.caller for job in tick.forward)
        for job in tick.forward:
            scheduler.finish(job.id)
        assert max(served.values()) - min(served.values()) <= 2


@given(lines=st.lists(st.integers(1, 12), min_size=1, max_size=8), limit=st.integers(1, 40))
def test_the_window_takes_one_job_of_each_caller_in_turn(lines: list[int], limit: int) -> None:
    queue: FairQueue[ForwardJob] = FairQueue()
    for caller, n in enumerate(lines):
        for i in range(n):
            queue.push(ForwardJob(id=(i, caller), caller=f"caller {caller}", tokens=1))
    turns = sorted((i, caller) for caller, n in enumerate(lines) for i in range(n))
    assert [job.id for job in queue.in_turn(limit)] == turns[:limit]


def log_normal_lengths(n: int, seed: int) -> list[int]:
    """Lengths in tokens with mean 147 and 99th percentile 800, none above 1,024."""
    z = 2.3263
    sigma = z - math.sqrt(z * z - 2 * math.log(800 / 147))
    mu = math.log(147) - sigma * sigma / 2
    draw = random.Random(seed)
    return [min(1024, max(1, round(draw.lognormvariate(mu, sigma)))) for _ in range(n)]


WIDE = replace(
    ROOMY,
    max_batch_tokens=8192,
    max_batch_bytes=1 << 30,
    window=256,
    batch_overhead_tokens=128,
)


@pytest.mark.parametrize("seed", range(3))
def test_callers_with_mixed_lengths_get_equal_shares(seed: int) -> None:
    scheduler = Scheduler(WIDE, Clock())
    for i, tokens in enumerate(log_normal_lengths(6000, seed)):
        scheduler.admit(ForwardJob(id=i, caller=f"caller {i % 3}", tokens=tokens))
    served = Counter({f"caller {i}": 0 for i in range(3)})
    for _ in range(150):
        for job in scheduler.tick().forward:
            served[job.caller] += job.tokens
            scheduler.finish(job.id)
    assert max(served.values()) - min(served.values()) <= 2 * WIDE.max_batch_tokens


# ---- padding


TEXTS = st.builds(
    ForwardJob,
    id=st.just("text"),
    caller=st.just("ann"),
    tokens=st.integers(1, 40),
    rows=st.sampled_from([1, 1, 1, 3]),
    bytes_per_token=st.sampled_from([0, 1, 5]),
)


def density(batch: list[ForwardJob], overhead: int) -> float:
    """Useful share of the time that a batch takes."""
    return sum(job.cost for job in batch) / (forward_use(batch).tokens + overhead)


@settings(deadline=None, max_examples=150)
@given(
    peers=st.lists(TEXTS, min_size=1, max_size=12),
    guests=st.lists(TEXTS, max_size=8),
    tokens=st.integers(120, 300),
    size=st.integers(600, 1000),
    overhead=st.integers(1, 60),
)
def test_a_batch_holds_its_leader_and_stays_in_budget(
    *,
    peers: list[ForwardJob],
    guests: list[ForwardJob],
    tokens: int,
    size: int,
    overhead: int,
) -> None:
    budget = Budget(tokens, size)
    batch = pack_forward(peers[0], Window(peers, guests), budget, overhead)
    assert peers[0] in batch
    assert len({id(job) for job in batch}) == len(batch)
    assert all(job in peers or job in guests for job in batch)
    use = forward_use(batch)
    assert use.tokens <= budget.tokens
    assert use.bytes <= budget.bytes
    # Guests take room that is left, they do not lengthen the padding of the peers.
    own = [job for job in batch if job in peers]
    assert max(job.tokens for job in batch) == max(job.tokens for job in own)
    assert density(batch, overhead) >= density(own, overhead)


@settings(deadline=None, max_examples=150)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    tokens=st.integers(60, 300),
    overhead=st.integers(1, 60),
)
def test_a_batch_is_the_densest_run_of_lengths_around_its_leader(
    lengths: list[int], tokens: int, overhead: int
) -> None:
    peers = [ForwardJob(id=i, caller="ann", tokens=n) for i, n in enumerate(lengths)]
    budget = Budget(tokens, 1)
    in_order = sorted(peers, key=lambda job: job.tokens)
    runs = [
        in_order[low:high]
        for low in range(len(peers))
        for high in range(low + 1, len(peers) + 1)
        if peers[0] in in_order[low:high]
        and forward_use(in_order[low:high]).tokens <= budget.tokens
    ]
    best = max(density(run, overhead) for run in runs)
    batch = pack_forward(peers[0], Window(peers, []), budget, overhead)
    assert density(batch, overhead) == pytest.approx(best)


def fifo_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Batches in the order of arrival, as full as the padded budget allows."""
    batches: list[list[int]] = [[]]
    for tokens in lengths:
        longest = max([*batches[-1], tokens])
        if (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
        batches[-1].append(tokens)
    return batches


@pytest.mark.parametrize("callers", [1, 16])
def test_similar_lengths_waste_less_than_the_order_of_arrival(callers: int) -> None:
    lengths = log_normal_lengths(6000, seed=1)
    assert 130 < sum(lengths) / len(lengths) < 160
    fifo = fifo_batches(lengths, WIDE.max_batch_tokens)
    fifo_padded = sum(len(batch) * max(batch) for batch in fifo)
    assert 1 - sum(lengths) / fifo_padded > 0.6

    scheduler = Scheduler(WIDE, Clock())
    arriving = iter(enumerate(lengths))
    useful = padded = batches = 0
    while True:
        # A window's worth waits, and what was served is replaced by newcomers.
        for i, tokens in arriving:
            scheduler.admit(ForwardJob(id=i, caller=f"caller {i % callers}", tokens=tokens))
            if scheduler.figures().queued_jobs >= WIDE.window:
                break
        if scheduler.idle:
            break
        tick = scheduler.tick()
        check_budgets(tick, WIDE)
        useful += tick.forward_tokens
        padded += tick.forward_padded_tokens
        batches += 1
        for job in tick.forward:
            scheduler.finish(job.id)
    assert useful == sum(lengths)
    assert 1 - useful / padded < 0.30
    overhead = WIDE.batch_overhead_tokens
    assert padded + overhead * batches < 0.5 * (fifo_padded + overhead * len(fifo))


# ---- times


@settings(deadline=None, max_examples=20)
@given(
    n_ids=st.sampled_from([5, 50, 500]),
    discards=st.sampled_from([0.3, 0.5, 0.7]),
    seed=st.integers(0, 99),
)
def test_a_timeline_is_a_sorted_list(n_ids: int, discards: float, seed: int) -> None:
    draw = random.Random(seed)
    timeline, model = Timeline(), dict[JobId, float]()
    for i in range(n_ids):
        model[i] = draw.randrange(1000)
        timeline.add(model[i], i)
    for _ in range(600):
        job_id = draw.randrange(n_ids)
        if draw.random() < discards:
            timeline.discard(job_id)
            model.pop(job_id, None)
        elif job_id not in model:
            model[job_id] = draw.randrange(1000)
            timeline.add(model[job_id], job_id)
        elif draw.random() < 0.05:
            now = draw.randrange(100)
            due = timeline.pop_due(now)
            assert [model[i] for i in due] == sorted(t for t in model.values() if t <= now)
            model = {i: time for i, time in model.items() if time > now}
        assert timeline.first() == min(model.values(), default=None)
        assert len(timeline) == len(model)


def test_a_timeline_does_not_fill_up_with_what_has_ended() -> None:
    timeline = Timeline()
    for i in range(100):
        timeline.add(i, f"kept {i}")
    for i in range(10_000):
        timeline.add(1e9 + i, i)
        if i >= 10:
            timeline.discard(i - 10)
        assert len(timeline._heap) + len(timeline._old_heap) <= 2 * (2 * 110 + 64)
    assert timeline.pop_due(1e8) == [f"kept {i}" for i in range(100)]
