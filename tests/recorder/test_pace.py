"""How the interval is stretched where samples cost too much, and how it comes back."""

from __future__ import annotations

from recorder.pace import MOST_STRETCH, Budget, Schedule


def test_samples_are_left_out_until_what_they_cost_is_within_the_share() -> None:
    budget = Budget(0.05, interval=0.1)
    assert [budget.spent(0.004, 0) for _ in range(3)] == [1, 1, 1]
    for _ in range(20):
        stretch = budget.spent(0.05, 0)
    assert stretch == 10  # 50 ms of CPU each second
    assert budget.spent(0.05, 0.025) == 20  # sealing takes half of it
    assert budget.spent(0.05, 1.0) == 40  # but never all
    assert budget.spent(1e9, 0) == MOST_STRETCH


def test_it_comes_back_when_some_samples_were_cheap_not_one() -> None:
    budget = Budget(0.05, interval=1.0)
    for _ in range(20):
        budget.spent(0.2, 0)
    assert budget.stretch == 4
    stretches = [budget.spent(0.001, 0) for _ in range(40)]
    assert stretches[:4] == [4] * 4
    assert stretches[-1] == 1
    assert stretches == sorted(stretches, reverse=True)


def test_what_is_left_out_by_plan_is_counted_and_the_next_is_on_its_tick() -> None:
    schedule = Schedule(1.0, start=100.0)
    assert schedule.next_due(100.0) == (100.0, 0)
    schedule.stretch = 3
    assert schedule.next_due(100.1) == (103.0, 2)
    assert schedule.next_due(107.5) == (107.0, 3)
    schedule.stretch = 1
    assert schedule.next_due(107.6) == (108.0, 0)
