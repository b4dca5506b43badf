"""Conditions: what they say, what is refused, and when a trigger fires."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recorder.triggers.condition import REARM_S, ConditionError, Trigger, parse
from recorder.triggers.measures import COUNTERS, GAUGES, Seen

NOTHING = Seen([], np.zeros(0), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "listen_overflows > 0 per 10s",
            ("listen_overflows", ">", 0, "TcpExt.ListenOverflows", 10, 0),
        ),
        ("retransmits>=1.5K per 1m", ("retransmits", ">=", 1500, "Tcp.RetransSegs", 60, 0)),
        ("Tcp.OutRsts > 9", ("Tcp.OutRsts", ">", 9, "Tcp.OutRsts", 10, 0)),
        ("close_wait_age > 5m for 30s", ("close_wait_age", ">", 300, None, 10, 30)),
        ("accept_queue >= 80%", ("accept_queue", ">=", 80, None, 10, 0)),
        ("send_queue > 4M", ("send_queue", ">", 4 << 20, None, 10, 0)),
        ("established < 1", ("established", "<", 1, None, 10, 0)),
    ],
)
def test_what_a_condition_says(text: str, said: tuple[object, ...]) -> None:
    c = parse(text)
    assert (c.name, c.operator, c.limit, c.counter, c.per, c.lasting) == said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no condition"),
        ("time_wait", "is no condition"),
        ("time_wait > x", "from 'x' on: write NAME > NUMBER"),
        ("time_wait = 5", "from '= 5' on"),
        ("nonsense > 5", "nothing is called nonsense: there are accept_queue, "),
        ("time_wait > 5 per 10s", "time_wait is no counter"),
        ("time_wait > 5%", "% does not fit"),
        ("close_wait_age > 5K", "K does not fit"),
        ("retransmits > 5 per 0s", "a time is one as 10s"),
        ("retransmits > 5 per 2d", "a day at most"),
        ("time_wait > 5 time_wait > 6", "from 'time_wait > 6' on"),
    ],
)
def test_what_makes_no_sense_is_refused_and_told_where(text: str, told: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_gauge_has_the_name_of_a_counter() -> None:
    assert not COUNTERS.keys() & GAUGES.keys()
    assert not any("." in name for name in (*COUNTERS, *GAUGES))


def fires(text: str, values: Mapping[Any, int]) -> list[float]:
    """Return at which seconds a trigger fires, of a counter that has risen by so much then."""
    trigger = Trigger(parse(text))
    risen = 0
    at: list[float] = []
    for second in range(200):
        risen += values.get(second, 0)
        if trigger.look(NOTHING, {"TcpExt.ListenOverflows": risen}, float(second)) is not None:
            at.append(second)
    return at


def test_what_was_before_the_first_look_does_not_count() -> None:
    assert fires("listen_overflows > 0 per 10s", {0: 5}) == []


def test_a_condition_that_stays_true_fires_once() -> None:
    assert fires("listen_overflows > 0 per 10s", dict.fromkeys(range(5, 150, 5), 1)) == [5]


def test_it_fires_again_when_it_has_been_false_for_a_time_of_its_own() -> None:
    within, beyond = 20 + 9 + REARM_S, 20 + 10 + REARM_S + 1
    assert fires("listen_overflows > 0 per 10s", {20: 1, within: 1}) == [20]
    assert fires("listen_overflows > 0 per 10s", {20: 1, beyond: 1}) == [20, beyond]


def test_a_rise_counts_within_its_window_only() -> None:
    slow = dict.fromkeys(range(3, 150, 6), 1)
    assert fires("listen_overflows > 2 per 10s", slow) == []
    assert fires("listen_overflows > 2 per 30s", slow) != []


def test_it_has_to_last_where_that_is_asked_for() -> None:
    text = "listen_overflows > 0 per 5s for 8s"
    assert fires(text, {10: 1}) == []
    assert fires(text, {10: 1, 14: 1}) == [18]


def test_the_page_lists_all_that_may_be_watched() -> None:
    page = (Path(__file__).parents[3] / "docs/service.md").read_text()
    for name, (counter, doc) in COUNTERS.items():
        assert f"| `{name}` | rise of {counter} | {doc} |\n" in page
    for name, gauge in GAUGES.items():
        assert f"| `{name}` | {gauge.unit or 'number'} | {gauge.doc} |\n" in page
