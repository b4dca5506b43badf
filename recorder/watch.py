"""What befalls a recording, sample by sample, told when it begins and when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

CALM_S = 60.0
"""Something is over when it did not happen for so long."""


class Say(Protocol):
    """Tells a sentence; ``event`` is one word for what kind of thing it is about."""

    def __call__(self, text: str, event: str = "degradation") -> None: ...


@dataclass
class _Spell:
    since: float
    latest: float
    count: int = 0


class Watch:
    """Tells of losses and of what fails: once when it begins, once when it is over."""

    def __init__(self, say: Say, now: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._now = now
        self._spells: dict[str, _Spell] = {}

    def sample(self, *, lost: int, failing: Mapping[str, str]) -> None:
        """Take what a sample lost of close events, and the steps that failed, with why."""
        if lost:
            begin = f"{lost:,} close events were lost: the kernel's buffer for them was full"
            self._seen("close events were lost", begin, "loss", lost)
        for step, why in failing.items():
            self._seen(f"{step} could not be read", f"{step} could not be read: {why}")
        self._end()

    def _seen(self, what: str, text: str, event: str = "degradation", count: int = 1) -> None:
        now = self._now()
        spell = self._spells.get(what)
        if spell is None:
            spell = self._spells[what] = _Spell(now, now)
            self._say(text, event)
        spell.latest = now
        spell.count += count

    def _end(self) -> None:
        now = self._now()
        for what, spell in list(self._spells.items()):
            if now - spell.latest >= CALM_S:
                del self._spells[what]
                lasted = spell.latest - spell.since
                self._say(f"over: {what} ({spell.count:,} in {lasted:,.0f} s)", "recovery")
