"""What befalls the clocks: each step both ways, and a suspend, and nothing where nothing did."""

from __future__ import annotations

import pytest

from recorder.host.clocks import Reading, befell, read

START = Reading(wall=1_000.0, boot=50.0, steady=40.0)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (Reading(1_060.0, 110.0, 100.0), []),
        (Reading(1_060.9, 110.0, 100.0), []),  # slewed
        (Reading(8_260.0, 110.0, 100.0), ["the wall clock was set forward by 7,200.0 s"]),
        (Reading(1_050.0, 110.0, 100.0), ["the wall clock was set back by 10.0 s"]),
        (Reading(1_060.0, 110.0, 42.0), ["the host was suspended for 58.0 s"]),
        # an hour at the fastest that adjtime slews
        (Reading(4_601.8, 3_650.0, 3_640.0), []),
        (
            Reading(1_000.0, 110.0, 42.0),
            ["the wall clock was set back by 60.0 s", "the host was suspended for 58.0 s"],
        ),
    ],
)
def test_what_the_clocks_say_of_the_time_between(now: Reading, told: list[str]) -> None:
    assert list(befell(START, now)) == told


def test_between_two_looks_at_the_real_clocks_nothing_befell() -> None:
    assert not list(befell(read(), read()))
