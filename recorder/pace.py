"""The pace of a recording: when samples are due, and fewer of them where they cost too much."""

from __future__ import annotations

import math

MOST_STRETCH = 60
"""Times that the interval is stretched at most, whatever a sample costs."""

_WEIGHT = 0.3
"""Of the latest sample in the average of what they cost."""

_LEAST_SHARE = 0.25
"""Of what is allowed samples may have at least so much, whatever sealing takes."""

_CALM = 5
"""Samples that must have cost little enough before the interval gets shorter again."""


class Schedule:
    """When samples are due: at multiples of the interval after the start, by a steady clock.

    A sample that cannot be begun before the next is due is left out and counted; so are those
    between, while the interval is stretched.
    """

    def __init__(self, interval: float, start: float) -> None:
        self._interval = interval
        self._start = start
        self._tick = -1
        self.stretch = 1

    def next_due(self, now: float) -> tuple[float, int]:
        """Return when the next sample is due, and how many due ones it comes after unsampled."""
        wanted = self._tick + (self.stretch if self._tick >= 0 else 1)
        tick = max(wanted, int((now - self._start) / self._interval))
        skipped = tick - self._tick - 1
        self._tick = tick
        return self._start + tick * self._interval, skipped


class Budget:
    """How far the interval must be stretched for the recorder to keep to a share of one CPU."""

    def __init__(self, share: float, interval: float) -> None:
        self._share = share
        self._interval = interval
        self._cost = 0.0
        self._cheap = 0
        self.stretch = 1

    def spent(self, seconds: float, sealing: float) -> int:
        """Take what a sample cost, and the share of a CPU that sealing took; return the stretch."""
        first = self._cost == 0.0
        self._cost = seconds if first else _WEIGHT * seconds + (1 - _WEIGHT) * self._cost
        left = max(self._share - sealing, _LEAST_SHARE * self._share)
        needed = min(max(1, math.ceil(self._cost / (left * self._interval))), MOST_STRETCH)
        self._cheap = self._cheap + 1 if needed < self.stretch else 0
        if needed > self.stretch or self._cheap >= _CALM:
            self.stretch, self._cheap = needed, 0
        return self.stretch
