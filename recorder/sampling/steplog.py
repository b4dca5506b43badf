"""The rows of ``samples``: what was done for a sample, how long it took, what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


class StepLog:
    """The steps of one sample, in their order."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.rows: list[Row] = []
        self._now_us = now_us
        self._places: dict[tuple[str, int], Row] = {}

    def of(self, step: str, netns: int) -> Row:
        """Return the row of a step in a namespace."""
        return self._places[step, netns]

    def find(self, step: str, netns: int) -> Row | None:
        """Return the row of a step in a namespace, None if it was not done there."""
        return self._places.get((step, netns))

    def measured(self, row: Row | None = None) -> _Measured:
        """Have a row get its times and CPU time; without one, it is a new one, nowhere added."""
        return _Measured(self._now_us, {} if row is None else row)

    def timed(self, step: str, netns: int) -> _Measured:
        """Add a row for what is done meanwhile; the caller puts in how it went."""
        row: Row = {"step": step, "netns": netns, "outcome": "ok"}
        self.rows.append(row)
        self._places[step, netns] = row
        return self.measured(row)

    def note(self, step: str, netns: int, **facts: object) -> Row:
        """Add a row for what took no time of its own, unless the facts have its times."""
        now = self._now_us()
        row: Row = {
            "step": step,
            "netns": netns,
            "outcome": "ok",
            "cpu_us": 0,
            "t0": now,
            "t1": now,
            **facts,
        }
        self.rows.append(row)
        return row


class _Measured:
    """Puts into a row when what is done meanwhile began and ended, and its CPU time.

    There may be thousands in a sample, for which a generator would be slow.
    """

    __slots__ = ("_cpu", "_now_us", "_row")

    def __init__(self, now_us: Callable[[], int], row: Row) -> None:
        self._now_us = now_us
        self._row = row

    def __enter__(self) -> Row:
        self._row["t0"] = self._now_us()
        self._cpu = time.process_time_ns()
        return self._row

    def __exit__(self, *error: object) -> None:
        self._row["cpu_us"] = (time.process_time_ns() - self._cpu) // 1000
        self._row["t1"] = self._now_us()
