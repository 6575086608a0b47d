"""Learning rate and warm-ups, step by step."""

from __future__ import annotations

import math

import pytest

from saekit_trainer.schedules import LearningRateSchedule, SchedulerName, warm_up

NAMES: tuple[SchedulerName, ...] = ("constant", "cosineannealing", "cosineannealingwarmrestarts")


@pytest.mark.parametrize("name", NAMES)
def test_warms_up_linearly_and_ends_at_the_end(name: SchedulerName) -> None:
    schedule = LearningRateSchedule(1.0, 0.1, name, warm_up_steps=10, decay_steps=20)
    rates = [schedule.at(step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(rate >= 0.1 - 1e-12 for rate in rates[1:])


def test_constant_is_constant_between() -> None:
    schedule = LearningRateSchedule(2.0, 0.0, warm_up_steps=5, decay_steps=10)
    assert {schedule.at(step, 50) for step in range(5, 40)} == {2.0}
    assert schedule.at(45, 50) == pytest.approx(1.0)


def test_cosine_annealing_is_the_cosine() -> None:
    schedule = LearningRateSchedule(1.0, 0.2, "cosineannealing", decay_steps=0)
    for step in (0, 17, 50, 99):
        expected = 0.2 + 0.8 * (1 + math.cos(math.pi * step / 100)) / 2
        assert schedule.at(step, 100) == pytest.approx(expected)


def test_warm_restarts_begin_each_cycle_at_the_peak() -> None:
    schedule = LearningRateSchedule(
        1.0, 0.0, "cosineannealingwarmrestarts", decay_steps=0, restart_cycles=4
    )
    rates = [schedule.at(step, 100) for step in range(100)]
    assert [rates[i] for i in (0, 25, 50, 75)] == pytest.approx([1.0] * 4)
    assert all(rates[i] < 0.01 for i in (24, 49, 74, 99))


def test_a_run_shorter_than_its_warm_up_is_all_right() -> None:
    schedule = LearningRateSchedule(1.0, 0.1, warm_up_steps=100, decay_steps=None)
    assert all(0 < schedule.at(step, 3) <= 1.0 for step in range(3))
    assert 0 < schedule.at(0, 1) <= 1.0


def test_sparsity_warms_up_linearly_to_one() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0
