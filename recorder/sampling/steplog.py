"""The rows of ``samples``: what was done for a sample, how long it took, what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    @contextmanager
    def measured(self) -> Iterator[Row]:
        """Yield a row that has its times and CPU time afterwards, and is nowhere added."""
        row: Row = {"t0": self._now_us()}
        cpu = time.process_time_ns()
        try:
            yield row
        finally:
            row["cpu_us"] = (time.process_time_ns() - cpu) // 1000
            row["t1"] = self._now_us()

    @contextmanager
    def timed(self, step: str, netns: int) -> Iterator[Row]:
        """Add a row for what is done meanwhile; the caller puts in how it went."""
        with self.measured() as row:
            row |= {"step": step, "netns": netns, "outcome": "ok"}
            self.rows.append(row)
            self._places[step, netns] = row
            yield row

    def note(self, step: str, netns: int, **facts: object) -> None:
        """Add a row for what took no time of its own, unless the facts have its times."""
        now = self._now_us()
        row: Row = {"step": step, "netns": netns, "outcome": "ok", "cpu_us": 0}
        self.rows.append(row | {"t0": now, "t1": now} | facts)
