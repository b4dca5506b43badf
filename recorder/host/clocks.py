"""The clocks of the host: what befell the time between two looks at them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

STEP_S = 1.0
"""The wall clock was set if it moved by more than this against CLOCK_BOOTTIME,"""

SLEW = 0.001
"""and by more than this share of the time between: adjtime(3) slews by half of it at most."""

SUSPENDED_S = 0.1
"""What CLOCK_BOOTTIME counts and CLOCK_MONOTONIC does not."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The wall clock, CLOCK_BOOTTIME and CLOCK_MONOTONIC at one moment, in seconds."""

    wall: float
    boot: float
    steady: float


def read() -> Reading:
    """Read all clocks."""
    return Reading(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())


def befell(before: Reading, now: Reading) -> Iterator[str]:
    """Yield what befell the clocks between two readings, each in a sentence."""
    passed = now.boot - before.boot
    step = now.wall - before.wall - passed
    if abs(step) > max(STEP_S, SLEW * passed):
        way = "forward" if step > 0 else "back"
        yield f"the wall clock was set {way} by {abs(step):,.1f} s"
    suspended = passed - (now.steady - before.steady)
    if suspended > SUSPENDED_S:
        yield f"the host was suspended for {suspended:,.1f} s"
