"""The scheduler, promise by promise, under a clock that only the test moves."""

import weakref
from dataclasses import replace

import pytest

from saekit_server.scheduler import (
    DrainingError,
    DropReason,
    ForwardJob,
    IntegrityError,
    Job,
    Kind,
    Limits,
    NeverFitsError,
    Prefill,
    Priority,
    QueueFullError,
    QuotaExceededError,
    SAEJob,
    Scheduler,
    SteerJob,
    Tick,
)

LIMITS = Limits(
    n_slots=4,
    max_batch_tokens=100,
    mixed_batch_tokens=20,
    max_batch_bytes=10_000,
    max_sae_rows=50,
    mixed_sae_rows=10,
    max_queued_jobs=30,
    max_queued_tokens=1200,
    max_caller_jobs=20,
    max_caller_tokens=800,
    batch_overhead_tokens=10,
    age_cap_s=5.0,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> Scheduler:
    return Scheduler(LIMITS, clock)


def text(job_id: str, tokens: int = 10, *, caller: str = "ann", **fields: object) -> ForwardJob:
    return replace(ForwardJob(id=job_id, caller=caller, tokens=tokens), **fields)  # type: ignore[arg-type]


def rows(job_id: str, n: int = 10, *, caller: str = "ann", **fields: object) -> SAEJob:
    return replace(SAEJob(id=job_id, caller=caller, rows=n, group="encode"), **fields)  # type: ignore[arg-type]


def steer(job_id: str, tokens: int = 10, *, caller: str = "ann", **fields: object) -> SteerJob:
    return replace(SteerJob(id=job_id, caller=caller, tokens=tokens), **fields)  # type: ignore[arg-type]


def ids(jobs: tuple[Job, ...]) -> list[object]:
    return [job.id for job in jobs]


def run(scheduler: Scheduler) -> Tick:
    """One tick whose forward and SAE batches succeed."""
    tick = scheduler.tick()
    for job in (*tick.forward, *tick.sae):
        scheduler.finish(job.id)
    scheduler.check_integrity()
    return tick


def start_decoding(scheduler: Scheduler, *jobs: SteerJob) -> None:
    scheduler.admit(*jobs)
    while len(scheduler.tick().decode) < len(jobs):
        pass


# ---- admission


@pytest.mark.parametrize(
    ("job", "limit"),
    [
        (text("a", 101), "max_batch_tokens"),
        (text("a", 34, rows=3), "max_batch_tokens"),
        (text("a", 10, bytes_per_token=1001), "max_batch_bytes"),
        (rows("a", 51), "max_sae_rows"),
        (rows("a", 1, bytes=10_001), "max_batch_bytes"),
        (steer("a", slots=5), "n_slots"),
        (steer("a", slots=2, bytes_per_token=5001), "max_batch_bytes"),
        (steer("a", 801), "max_caller_tokens"),
    ],
)
def test_a_job_that_can_never_fit_is_refused_by_the_name_of_the_limit(
    scheduler: Scheduler, job: Job, limit: str
) -> None:
    with pytest.raises(NeverFitsError, match=limit) as refusal:
        scheduler.admit(job)
    assert refusal.value.limit == limit
    assert refusal.value.value > refusal.value.allowed == getattr(LIMITS, limit)
    assert refusal.value.retry_after_s is None
    assert scheduler.idle


def test_the_largest_job_that_fits_runs(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 100, bytes_per_token=100), rows("b", 50, bytes=10_000))
    tick = run(scheduler)
    assert (ids(tick.forward), ids(tick.sae)) == (["a"], ["b"])
    scheduler.admit(steer("c", slots=4, bytes_per_token=2500))
    assert run(scheduler).prefill[0].tokens > 0


def test_one_caller_over_its_quota_does_not_close_the_queue_to_others(
    scheduler: Scheduler,
) -> None:
    scheduler.admit(*(text(f"ann{i}", 1) for i in range(20)))
    with pytest.raises(QuotaExceededError) as refusal:
        scheduler.admit(text("ann20", 1))
    assert refusal.value.limit == "max_caller_jobs"
    assert refusal.value.retry_after_s is not None
    scheduler.admit(text("bob0", 1, caller="bob"))


def test_the_token_quota_of_a_caller_counts_every_kind_of_work(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 50, rows=2), rows("b", 50), steer("c", 325, slots=2))
    with pytest.raises(QuotaExceededError, match=r"max_caller_tokens is 800, .* 801"):
        scheduler.admit(text("d", 1))


def test_a_full_queue_says_so_to_everyone(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"ann{i}", 1) for i in range(20)))
    scheduler.admit(*(text(f"bob{i}", 1, caller="bob") for i in range(10)))
    with pytest.raises(QueueFullError) as refusal:
        scheduler.admit(text("cat", 1, caller="cat"))
    assert refusal.value.limit == "max_queued_jobs"


def test_room_is_refused_as_the_jobs_themselves_would_be(scheduler: Scheduler) -> None:
    room = scheduler.keep_room("ann", 20)
    scheduler.admit(*(text(f"ann{i}", 1) for i in range(20)), room=room)
    with pytest.raises(QuotaExceededError):
        scheduler.keep_room("ann", 1)
    scheduler.give_back(scheduler.keep_room("cat", 10))
    scheduler.admit(*(text(f"bob{i}", 1, caller="bob") for i in range(10)))
    with pytest.raises(QueueFullError) as refusal:
        scheduler.keep_room("cat", 1)
    assert refusal.value.limit == "max_queued_jobs"
    scheduler.keep_room("cat", 21)  # never fits; admit says so, and names what
    scheduler.drain()
    with pytest.raises(DrainingError):
        scheduler.keep_room("cat", 21)


def test_room_is_kept_until_its_jobs_come_or_it_is_given_back(scheduler: Scheduler) -> None:
    room = scheduler.keep_room("ann", 20)
    others = scheduler.keep_room("bob", 9)
    scheduler.check_integrity()
    for caller, error in (("ann", QuotaExceededError), ("cat", None), ("cat", QueueFullError)):
        if error is None:
            scheduler.keep_room(caller, 1)
            continue
        with pytest.raises(error):
            scheduler.keep_room(caller, 1)
        with pytest.raises(error):
            scheduler.admit(text("x", 1, caller=caller))
    # Its own jobs find their places, and what they leave is free.
    scheduler.admit(*(text(f"ann{i}", 1) for i in range(15)), room=room)
    scheduler.admit(*(text(f"dan{i}", 1, caller="dan") for i in range(5)))
    scheduler.check_integrity()
    with pytest.raises(QueueFullError):
        scheduler.keep_room("cat", 1)
    for _ in range(2):  # a second time, nothing
        scheduler.give_back(others)
    scheduler.check_integrity()
    scheduler.give_back(scheduler.keep_room("cat", 9))
    with pytest.raises(QueueFullError):
        scheduler.keep_room("cat", 10)


def test_room_is_given_back_by_jobs_that_are_refused(scheduler: Scheduler) -> None:
    room = scheduler.keep_room("ann", 20)
    with pytest.raises(NeverFitsError):
        scheduler.admit(text("a", 101), room=room)
    scheduler.give_back(scheduler.keep_room("ann", 20))


def test_a_queue_full_of_tokens_is_full(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 800))
    scheduler.admit(steer("b", 400, caller="bob"))
    with pytest.raises(QueueFullError, match="max_queued_tokens"):
        scheduler.admit(text("c", 1, caller="cat"))


def test_retry_estimate_is_the_time_that_the_queue_takes_at_the_measured_pace(
    scheduler: Scheduler, clock: Clock
) -> None:
    for i in range(4):
        scheduler.admit(text(f"warm{i}", 100))
        scheduler.tick()
        clock.now += 2.0
        scheduler.finish(f"warm{i}")
        clock.now += 1000.0  # an idle device is no slow device
    scheduler.admit(*(text(f"a{i}", 100) for i in range(8)))
    with pytest.raises(QuotaExceededError) as refusal:
        scheduler.admit(text("b", 1))
    assert refusal.value.retry_after_s == pytest.approx(800 / 50)


def test_a_request_is_admitted_whole_or_not_at_all(scheduler: Scheduler) -> None:
    with pytest.raises(NeverFitsError):
        scheduler.admit(text("a"), text("b", 101))
    scheduler.admit(*(text(f"c{i}", 1) for i in range(19)))
    with pytest.raises(QuotaExceededError):
        scheduler.admit(text("a", 1), text("b", 1))
    assert scheduler.figures().queued_jobs == 19
    scheduler.admit(text("a", 1))
    scheduler.check_integrity()


def test_a_request_of_more_jobs_than_a_caller_may_queue_never_fits(scheduler: Scheduler) -> None:
    with pytest.raises(NeverFitsError, match="max_caller_jobs"):
        scheduler.admit(*(text(f"a{i}", 1) for i in range(21)))


def test_an_id_in_use_and_a_request_of_two_callers_are_programming_errors(
    scheduler: Scheduler,
) -> None:
    scheduler.admit(text("a"))
    with pytest.raises(ValueError, match="not in use"):
        scheduler.admit(text("a"))
    with pytest.raises(ValueError, match="not in use"):
        scheduler.admit(text("b"), text("b"))
    with pytest.raises(ValueError, match="several callers"):
        scheduler.admit(text("b"), text("c", caller="bob"))
    run(scheduler)
    scheduler.admit(text("a"))


def test_draining_refuses_the_new_and_serves_the_old(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"))
    scheduler.drain()
    with pytest.raises(DrainingError) as refusal:
        scheduler.admit(text("b"))
    assert refusal.value.retry_after_s is not None
    assert not scheduler.idle
    assert ids(run(scheduler).forward) == ["a"]
    assert scheduler.idle


@pytest.mark.parametrize(
    "fields",
    [
        {"n_slots": -1},
        {"max_batch_bytes": 0},
        {"mixed_batch_tokens": 101},
        {"mixed_sae_rows": 51},
        {"n_slots": 11},
        {"max_caller_jobs": 31},
        {"max_caller_tokens": 1201},
        {"batch_overhead_tokens": 0},
        {"max_delay_s": -0.1},
    ],
)
def test_limits_that_contradict_themselves_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"Limits\.\w+: got"):
        replace(LIMITS, **fields)  # type: ignore[arg-type]


def test_jobs_without_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ForwardJob\.tokens .* got 0"):
        text("a", 0)
    with pytest.raises(ValueError, match=r"SAEJob\.rows"):
        rows("a", 0)
    with pytest.raises(ValueError, match=r"SAEJob\.group"):
        rows("a", group=None)
    with pytest.raises(ValueError, match=r"SteerJob\.slots"):
        steer("a", slots=0)


# ---- batches


def test_similar_lengths_share_a_batch_and_unlike_ones_do_not(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 9), text("b", 40), text("c", 10), text("d", 38), text("e", 8))
    assert sorted(ids(run(scheduler).forward)) == ["a", "c", "e"]
    assert sorted(ids(run(scheduler).forward)) == ["b", "d"]
    assert scheduler.idle


def test_padding_that_costs_less_than_a_batch_of_its_own_is_accepted(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 2), text("b", 5))
    assert len(run(scheduler).forward) == 2


def test_padded_tokens_stay_under_the_budget_and_rows_count(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"a{i}", 10, rows=3) for i in range(7)))
    assert [len(run(scheduler).forward) for _ in range(3)] == [3, 3, 1]


@pytest.mark.parametrize("lengths", [(10, 10, 10, 10, 10), (12, 11, 10, 9, 8), (8, 9, 10, 11, 12)])
def test_bytes_stay_under_the_budget(scheduler: Scheduler, lengths: tuple[int, ...]) -> None:
    scheduler.admit(*(text(f"a{i}", n, bytes_per_token=400) for i, n in enumerate(lengths)))
    batches = [run(scheduler).forward for _ in range(3)]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for batch in batches:
        assert len(batch) * max(job.tokens for job in batch) * 400 <= 10_000


def test_groups_are_not_mixed(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"a{i}", group=i % 2) for i in range(6)))
    scheduler.admit(*(rows(f"b{i}", 1, group=("decode", i % 2)) for i in range(6)))
    for _ in range(2):
        tick = run(scheduler)
        assert len(tick.forward) == len(tick.sae) == 3
        assert len({job.group for job in tick.forward}) == 1
        assert len({job.group for job in tick.sae}) == 1
    assert scheduler.idle


def test_sae_work_of_all_callers_shares_a_batch_up_to_rows_and_bytes(scheduler: Scheduler) -> None:
    for name in ("ann", "bob", "cat"):
        scheduler.admit(*(rows(f"{name}{i}", 10, caller=name, bytes=1500) for i in range(2)))
    assert {job.caller for job in run(scheduler).sae} == {"ann", "bob", "cat"}
    assert scheduler.figures().queued_jobs == 1
    scheduler.admit(rows("dan", 10, caller="dan", bytes=9000))
    assert len(run(scheduler).sae) == 1


def test_an_idle_device_starts_at_once(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"))
    assert ids(run(scheduler).forward) == ["a"]


def test_a_delay_waits_for_company_but_no_longer(clock: Clock) -> None:
    scheduler = Scheduler(replace(LIMITS, max_delay_s=0.5), clock)
    scheduler.admit(text("a"), rows("b"))
    assert not run(scheduler).has_work
    assert scheduler.next_deadline() == 100.5
    clock.now = 100.4
    assert not run(scheduler).has_work
    clock.now = 100.5
    tick = run(scheduler)
    assert (ids(tick.forward), ids(tick.sae)) == (["a"], ["b"])
    assert scheduler.next_deadline() is None
    scheduler.admit(*(text(f"c{i}", 20) for i in range(5)))
    assert len(run(scheduler).forward) == 5


def test_a_tick_touches_no_more_jobs_than_its_window(clock: Clock) -> None:
    touched: set[object] = set()

    class Touched(ForwardJob):
        def __getattribute__(self, name: str) -> object:
            touched.add(object.__getattribute__(self, "id"))
            return super().__getattribute__(name)

    n = 5000
    limits = replace(
        LIMITS,
        window=32,
        max_queued_jobs=n,
        max_caller_jobs=n,
        max_queued_tokens=20 * n,
        max_caller_tokens=20 * n,
    )
    scheduler = Scheduler(limits, clock)
    for i in range(n):
        scheduler.admit(
            Touched(id=i, caller=f"caller {i % 3}", tokens=1 + i % 17, deadline=1e6 - i)
        )
    touched.clear()
    for _ in range(3):
        scheduler.tick()
        assert len(touched) <= 32 + 100
        touched.clear()


# ---- priorities and turns


def test_interactive_goes_first_and_batch_work_fills_the_room(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"batch{i}", priority=Priority.BATCH) for i in range(12)))
    scheduler.admit(*(text(f"now{i}", caller="bob") for i in range(4)))
    first = run(scheduler).forward
    assert ids(first)[:4] == [f"now{i}" for i in range(4)]
    assert len(first) == 10


def test_interactive_does_not_wait_for_batch_work_of_another_length(scheduler: Scheduler) -> None:
    scheduler.admit(text("batch", 90, priority=Priority.BATCH))
    scheduler.admit(text("now", 10, caller="bob"))
    assert ids(run(scheduler).forward) == ["now"]


def test_overdue_batch_work_leads_every_other_batch(scheduler: Scheduler, clock: Clock) -> None:
    scheduler.admit(*(text(f"batch{i}", 90, priority=Priority.BATCH) for i in range(3)))
    served = []
    for step in range(10):
        clock.now += 1.0
        scheduler.admit(text(f"now{step}", 60, caller="bob"))
        served += [str(job.id).rstrip("0123456789") for job in run(scheduler).forward]
    assert served == ["now"] * 4 + ["batch", "now"] * 3


def test_callers_take_turns(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"ann{i}", 60 - i) for i in range(6)))
    scheduler.admit(*(text(f"bob{i}", 80 - i, caller="bob") for i in range(2)))
    scheduler.admit(text("cat", 100, caller="cat"))
    order = [job.caller for _ in range(9) for job in run(scheduler).forward]
    assert order == ["ann", "bob", "cat", "ann", "bob", "ann", "ann", "ann", "ann"]


def test_who_joins_the_batch_of_another_keeps_its_own_turn(scheduler: Scheduler) -> None:
    scheduler.admit(text("ann", 5, rows=10))
    scheduler.admit(text("bob", 100, caller="bob"), text("bob too", 5, rows=10, caller="bob"))
    scheduler.admit(text("cat", 100, caller="cat"))
    batches = [ids(run(scheduler).forward) for _ in range(3)]
    assert batches == [["ann", "bob too"], ["bob"], ["cat"]]


# ---- ends


def test_cancelled_waiting_work_is_reported_once_and_never_runs(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"), rows("b"), steer("c"), text("d"))
    assert all(scheduler.cancel(job_id) for job_id in "abc")
    assert scheduler.figures().queued_jobs == 1
    tick = run(scheduler)
    assert [(drop.job.id, drop.reason) for drop in tick.dropped] == [
        (job_id, DropReason.CANCELLED) for job_id in "abc"
    ]
    assert (ids(tick.forward), tick.sae, tick.prefill) == (["d"], (), ())
    assert run(scheduler).dropped == ()
    assert not scheduler.cancel("a")
    assert scheduler.idle


def test_an_idle_scheduler_has_reported_everything(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"))
    scheduler.cancel("a")
    assert not scheduler.idle
    scheduler.tick()
    assert scheduler.idle


def test_a_cancelled_stream_frees_its_slots_for_the_next_tick(scheduler: Scheduler) -> None:
    start_decoding(scheduler, steer("a", 1, slots=3), steer("b", 1))
    scheduler.admit(steer("c", 1, slots=3, caller="bob"))
    assert run(scheduler).prefill == ()
    scheduler.cancel("a")
    tick = run(scheduler)
    assert [(drop.job.id, drop.reason) for drop in tick.dropped] == [("a", DropReason.CANCELLED)]
    assert tick.prefill == (Prefill(tick.prefill[0].job, (0, 1, 2), 0, 1),)
    assert tick.prefill[0].job.id == "c"
    assert ids(tick.decode) == ["b"]


def test_a_stream_that_ends_by_itself_after_being_cancelled_ends_once(scheduler: Scheduler) -> None:
    start_decoding(scheduler, steer("a", 1))
    scheduler.cancel("a")
    scheduler.finish("a")
    tick = run(scheduler)
    assert (tick.dropped, tick.decode) == ((), ())
    assert scheduler.idle


def test_deadlines_end_what_waits_and_what_streams(scheduler: Scheduler, clock: Clock) -> None:
    start_decoding(scheduler, steer("stream", 1, slots=4, deadline=103.0))
    scheduler.admit(text("late", 10, deadline=102.0))
    scheduler.admit(text("running", 100, deadline=102.0, caller="bob"))
    scheduler.admit(steer("waiting", deadline=102.5), text("patient", 15))
    assert scheduler.next_deadline() == 102.0
    assert ids(scheduler.tick().forward) == ["late"]
    assert ids(scheduler.tick().forward) == ["running"]
    clock.now = 102.5
    assert [drop.job.id for drop in scheduler.tick().dropped] == ["waiting"]
    scheduler.finish("late")
    scheduler.finish("running")
    assert scheduler.next_deadline() == clock.now + 0.5
    clock.now = 103.0
    tick = scheduler.tick()
    assert [(drop.job.id, drop.reason) for drop in tick.dropped] == [("stream", DropReason.EXPIRED)]
    assert tick.decode == ()
    assert scheduler.figures().slots_free == 4
    scheduler.check_integrity()


def test_a_deadline_that_has_passed_is_never_served(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", deadline=100.0))
    tick = run(scheduler)
    assert [drop.reason for drop in tick.dropped] == [DropReason.EXPIRED]
    assert tick.forward == ()


def test_finish_of_what_does_not_run_is_a_programming_error(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"))
    with pytest.raises(LookupError, match="'a'"):
        scheduler.finish("a")
    run(scheduler)
    with pytest.raises(LookupError):
        scheduler.finish("a")


def test_jobs_that_ended_are_not_kept_in_memory(scheduler: Scheduler) -> None:
    class Work(ForwardJob):
        """Without slots of its own, so that it can be referred to weakly."""

    ended = []
    for i in range(6):
        job = Work(id=i, caller="ann", tokens=10, deadline=1e9)
        ended.append(weakref.ref(job))
        scheduler.admit(job)
        if i % 2:
            scheduler.cancel(i)
        del job
        run(scheduler)
    assert [ref() for ref in ended] == [None] * 6


# ---- streams


def test_a_long_prompt_goes_in_pieces_and_decodes_when_it_is_complete(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 130, slots=2))
    pieces = []
    while not (tick := run(scheduler)).decode:
        pieces += [(piece.start, piece.tokens) for piece in tick.prefill]
    assert pieces == [(0, 50), (50, 50), (100, 30)]
    assert ids(tick.decode) == ["a"]
    assert tick.decode_rows == 2
    assert tick.prefill == ()


def test_every_decoding_stream_moves_one_step_in_every_tick(scheduler: Scheduler) -> None:
    start_decoding(scheduler, steer("a", 1), steer("b", 1))
    scheduler.admit(text("c", 100))
    scheduler.admit(steer("d", 60))
    for _ in range(5):
        assert ids(run(scheduler).decode)[:2] == ["a", "b"]


def test_short_prompts_share_a_prefill(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 12), steer("b", 10), steer("c", 9))
    assert [(p.job.id, p.tokens) for p in run(scheduler).prefill] == [
        ("a", 12),
        ("b", 10),
        ("c", 9),
    ]


def test_two_long_prompts_go_one_after_the_other(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 150), steer("b", 150))
    pieces = [[(p.job.id, p.tokens) for p in run(scheduler).prefill] for _ in range(2)]
    assert pieces == [[("a", 100)], [("a", 50), ("b", 50)]]


def test_slots_are_unique_lowest_first_and_come_back(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 1), steer("b", 1, slots=2), steer("c", 1))
    assert [piece.slots for piece in run(scheduler).prefill] == [(0,), (1, 2), (3,)]
    scheduler.finish("b")
    scheduler.admit(steer("d", 1), steer("e", 1))
    assert [piece.slots for piece in run(scheduler).prefill] == [(1,), (2,)]


def test_a_stream_for_many_slots_is_overtaken_only_up_to_the_age_cap(
    scheduler: Scheduler, clock: Clock
) -> None:
    start_decoding(scheduler, steer("old", 1))
    scheduler.admit(steer("wide", 1, slots=4))
    for age in range(1, 9):
        clock.now += 1.0
        scheduler.admit(steer(f"small{age}", 1, caller="bob"))
        started = run(scheduler).prefill
        assert [piece.job.id for piece in started] == ([f"small{age}"] if age < 5 else [])
        for piece in started:
            scheduler.finish(piece.job.id)
    scheduler.finish("old")
    assert [piece.job.id for piece in run(scheduler).prefill] == ["wide"]


# ---- mixed load


def test_batches_are_smaller_while_streams_decode(scheduler: Scheduler) -> None:
    start_decoding(scheduler, steer("a", 1))
    scheduler.admit(*(text(f"b{i}", 5) for i in range(6)), *(rows(f"c{i}", 5) for i in range(6)))
    tick = run(scheduler)
    assert tick.forward_padded_tokens == 20
    assert sum(job.rows for job in tick.sae) == 10
    scheduler.finish("a")
    tick = run(scheduler)
    assert (len(tick.forward), len(tick.sae)) == (2, 4)


def test_work_beyond_the_mixed_budget_runs_alone(scheduler: Scheduler) -> None:
    start_decoding(scheduler, steer("a", 1))
    scheduler.admit(text("b", 90), text("c", 90), text("d", 5), rows("e", 50), rows("f", 1))
    tick = run(scheduler)
    assert (ids(tick.forward), ids(tick.sae)) == (["b"], ["e"])


def test_prefill_and_forward_share_the_budget_in_halves(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"a{i}", 10) for i in range(15)), steer("b", 75, slots=2))
    tick = run(scheduler)
    assert (tick.forward_padded_tokens, tick.prefill_padded_tokens) == (50, 50)
    tick = run(scheduler)
    assert (tick.forward_padded_tokens, tick.prefill_padded_tokens) == (50, 50)
    tick = run(scheduler)
    assert (tick.forward_padded_tokens, tick.prefill_padded_tokens) == (50, 50)
    assert run(scheduler).decode_rows == 2


def test_what_one_does_not_want_the_other_gets(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 10), steer("b", 300))
    tick = run(scheduler)
    assert (tick.forward_padded_tokens, tick.prefill_padded_tokens) == (10, 90)


def test_a_long_text_and_a_prefill_take_turns(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 300))
    scheduler.admit(*(text(f"b{i}", 90) for i in range(4)))
    shares = []
    for _ in range(6):
        tick = run(scheduler)
        shares.append((tick.forward_padded_tokens, tick.prefill_padded_tokens))
    assert shares == [(0, 100), (90, 10), (0, 100), (90, 10), (0, 80), (90, 0)]


# ---- out of memory


def test_out_of_memory_halves_the_batch_until_it_fits(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"a{i}", 10) for i in range(10)))
    sizes = []
    while not scheduler.idle:
        batch = ids(scheduler.tick().forward)
        sizes.append(len(batch))
        if len(batch) > 2:
            assert scheduler.back_off(batch)
        else:
            for job_id in batch:
                scheduler.finish(job_id)
        scheduler.check_integrity()
    assert sizes == [10, 5, 2, 2, 2, 2, 2]


def test_jobs_taken_back_keep_their_place_and_age(scheduler: Scheduler, clock: Clock) -> None:
    scheduler.admit(*(text(f"a{i}", 25) for i in range(6)))
    clock.now += 3.0
    batch = ids(scheduler.tick().forward)
    assert scheduler.back_off(batch)
    assert scheduler.figures().oldest_age_s == 3.0
    assert ids(run(scheduler).forward) == ["a0", "a1"]
    assert ids(run(scheduler).forward) == ["a2", "a3"]


def test_a_job_alone_can_get_no_smaller(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 100), rows("b"))
    scheduler.tick()
    assert not scheduler.back_off(["a"])
    assert not scheduler.back_off(["b"])
    scheduler.finish("a")
    assert scheduler.figures().forward_share == 1.0


def test_a_job_over_the_lowered_budget_still_runs_alone(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 45), text("b", 45), text("c", 100))
    assert scheduler.back_off(ids(scheduler.tick().forward))
    assert [ids(run(scheduler).forward) for _ in range(3)] == [["a"], ["b"], ["c"]]


def test_the_budget_recovers_slowly(scheduler: Scheduler) -> None:
    scheduler.admit(*(text(f"a{i}", 10) for i in range(10)))
    scheduler.back_off(ids(scheduler.tick().forward))
    assert scheduler.figures().forward_share == 0.5
    for _ in range(88):
        run(scheduler)
    assert scheduler.figures().forward_share < 1.0
    run(scheduler)
    run(scheduler)
    assert scheduler.figures().forward_share == 1.0


def test_sae_work_backs_off_without_slowing_the_model(scheduler: Scheduler) -> None:
    scheduler.admit(*(rows(f"a{i}", 10, bytes=2000) for i in range(5)))
    assert scheduler.back_off(ids(scheduler.tick().sae))
    assert len(run(scheduler).sae) == 2
    assert scheduler.figures().forward_share == 1.0


def test_pieces_of_prompts_are_taken_back(scheduler: Scheduler) -> None:
    scheduler.admit(steer("a", 130))
    scheduler.tick()
    (piece,) = scheduler.tick().prefill
    assert (piece.start, piece.tokens) == (100, 30)
    while scheduler.back_off(["a"]):
        (again,) = scheduler.tick().prefill
        assert again.start == 100
        assert again.tokens < piece.tokens
        piece = again
    assert piece.tokens == 1
    scheduler.check_integrity()


def test_a_prompt_moves_even_under_the_lowest_ceiling(scheduler: Scheduler) -> None:
    scheduler.admit(text("a", 1), text("b", 1))
    assert scheduler.back_off(ids(scheduler.tick().forward))
    scheduler.admit(steer("c", 9, slots=4, bytes_per_token=2000))
    run(scheduler)
    assert [piece.tokens for piece in run(scheduler).prefill] == [1]


def test_a_decode_step_is_not_made_smaller_by_the_scheduler(scheduler: Scheduler) -> None:
    start_decoding(scheduler, steer("a", 1), steer("b", 1))
    assert not scheduler.back_off(["a", "b"])
    assert scheduler.figures().forward_share == 1.0


def test_a_job_cancelled_while_it_ran_does_not_run_again(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"), text("b"))
    scheduler.tick()
    assert scheduler.cancel("a")
    assert scheduler.back_off(["a", "b"])
    tick = run(scheduler)
    assert [drop.job.id for drop in tick.dropped] == ["a"]
    assert ids(tick.forward) == ["b"]


def test_a_job_that_expired_while_it_ran_does_not_run_again(
    scheduler: Scheduler, clock: Clock
) -> None:
    scheduler.admit(text("a", deadline=101.0), text("b"))
    scheduler.tick()
    clock.now = 101.0
    assert scheduler.back_off(["a", "b"])
    tick = run(scheduler)
    assert [drop.job.id for drop in tick.dropped] == ["a"]
    assert ids(tick.forward) == ["b"]


def test_backing_off_from_what_is_no_batch_is_a_programming_error(scheduler: Scheduler) -> None:
    scheduler.admit(text("a"), rows("b"))
    with pytest.raises(LookupError):
        scheduler.back_off(["a"])
    scheduler.tick()
    with pytest.raises(ValueError, match="one batch"):
        scheduler.back_off(["a", "b"])


# ---- figures


def test_figures_tell_depth_age_and_slots(scheduler: Scheduler, clock: Clock) -> None:
    start_decoding(scheduler, steer("s", 1, slots=2))
    scheduler.admit(text("a", 10, rows=2))
    clock.now += 2.0
    scheduler.admit(rows("b", 7), steer("c", 5, slots=3))
    figures = scheduler.figures()
    assert (figures.queued_jobs, figures.queued_tokens, figures.oldest_age_s) == (3, 42, 2.0)
    depth = figures.queued[Kind.STEER]
    assert (depth.jobs, depth.tokens, depth.oldest_age_s) == (1, 15, 0.0)
    assert (figures.running_jobs, figures.decoding_rows) == (1, 2)
    assert (figures.slots_used, figures.slots_free) == (2, 2)


def test_integrity_check_sees_a_lost_slot_a_lost_job_and_a_wrong_count(clock: Clock) -> None:
    def busy() -> Scheduler:
        scheduler = Scheduler(LIMITS, clock)
        start_decoding(scheduler, steer("s", 1))
        scheduler.admit(text("a", deadline=1e9), rows("b"))
        scheduler.check_integrity()
        return scheduler

    scheduler = busy()
    scheduler._streams._slots.take(1)
    with pytest.raises(IntegrityError, match="slots"):
        scheduler.check_integrity()

    scheduler = busy()
    del scheduler._entries["a"]
    with pytest.raises(IntegrityError, match="never admitted"):
        scheduler.check_integrity()

    scheduler = busy()
    scheduler._ledger.jobs += 1
    with pytest.raises(IntegrityError, match="counted"):
        scheduler.check_integrity()

    scheduler = busy()
    scheduler._deadlines.discard("a")
    with pytest.raises(IntegrityError, match="deadline"):
        scheduler.check_integrity()

    scheduler = busy()
    scheduler._entries["b"].running = True
    with pytest.raises(IntegrityError, match="neither waits nor runs"):
        scheduler.check_integrity()
