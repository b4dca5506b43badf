"""A condition as `record --on` takes it: its text → what is watched, and whether it is true.

The grammar is in condition.lark; docs/service.md lists what may be watched.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from recorder.schema import SockrecError
from recorder.triggers.measures import COUNTERS, GAUGES, Seen

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

PER_S = 10.0
"""A counter is compared with its rise in this time, unless ``per`` says otherwise."""

REARM_S = 60.0
"""A trigger that fired does so again only when its condition has been false for so long."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_TIMES = {None: 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


class ConditionError(SockrecError):
    """A condition that makes no sense."""


@dataclass(frozen=True, slots=True)
class Condition:
    """``name`` is that of a gauge or, with ``counter``, of a counter; times are in seconds."""

    text: str
    name: str
    operator: str
    limit: float
    counter: str | None
    per: float
    lasting: float

    def holds(self, value: float) -> bool:
        """Tell whether a value fulfils it."""
        compared = {
            ">": value > self.limit,
            "<": value < self.limit,
            ">=": value >= self.limit,
            "<=": value <= self.limit,
        }
        return compared[self.operator]

    def told(self, value: float) -> str:
        """Return what was measured, in words."""
        unit = f" in {self.per:g} s" if self.counter else f" {GAUGES[self.name].unit}".rstrip()
        return f"{self.name} was {value:,.6g}{unit}"


def parse(text: str) -> Condition:
    """Return what a condition says. Raises ConditionError, which says where it is wrong."""
    from lark.exceptions import UnexpectedInput

    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        place = max(getattr(error, "column", 1) - 1, 0)
        raise ConditionError(
            f"{text!r} is no condition from {text[place:][:20]!r} on: write NAME > NUMBER, and "
            "'per 10s' of a counter or 'for 30s'"
        ) from error
    name, operator = (str(token) for token in tree.children[:2])
    value, *rest = _trees(tree)
    times = {str(part.data): _seconds(text, _trees(part)[0]) for part in rest}
    counter = COUNTERS[name][0] if name in COUNTERS else name if "." in name else None
    if counter is None and name not in GAUGES:
        known = ", ".join(sorted([*COUNTERS, *GAUGES]))
        raise ConditionError(
            f"{text!r}: nothing is called {name}: there are {known}, and counters as Tcp.OutRsts"
        )
    if counter is None and "per" in times:
        raise ConditionError(f"{text!r}: {name} is no counter, of which alone 'per' can be said")
    unit = "" if counter else GAUGES[name].unit
    return Condition(
        text.strip(),
        name,
        operator,
        _value(text, value, unit),
        counter,
        times.get("per", PER_S),
        times.get("lasting", 0.0),
    )


@cache
def _grammar() -> Lark:
    from lark import Lark

    return Lark(files("recorder.triggers").joinpath("condition.lark").read_text(), parser="lalr")


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    from lark import Tree as Found

    return [child for child in tree.children if isinstance(child, Found)]


def _parts(tree: Tree[Token]) -> tuple[float, str | None]:
    number, *suffix = (str(token) for token in tree.children)
    return float(number), suffix[0] if suffix else None


def _seconds(text: str, tree: Tree[Token]) -> float:
    number, suffix = _parts(tree)
    seconds = number * _SECONDS.get(suffix or "s", 0.0)
    if not 0 < seconds <= 86400:
        raise ConditionError(f"{text!r}: a time is one as 10s or 5m, and a day at most")
    return seconds


def _value(text: str, tree: Tree[Token], unit: str) -> float:
    number, suffix = _parts(tree)
    units = {
        "s": _SECONDS | {None: 1.0},
        "%": {None: 1.0, "%": 1.0},
        "bytes": _BYTES | {None: 1.0},
        "": _TIMES,
    }[unit]
    if suffix not in units:
        there = ", ".join(str(one) for one in units if one) or "none"
        raise ConditionError(f"{text!r}: {suffix} does not fit: what does is {there}")
    return number * units[suffix]


@dataclass
class Trigger:
    """A condition that is watched: fires once, and again when it has been false for a while."""

    condition: Condition
    _rises: deque[tuple[float, int]] = field(default_factory=deque)
    _since: float | None = None
    _false_since: float | None = None
    _fired: bool = False

    def look(self, seen: Seen, risen: dict[str, int], now: float) -> float | None:
        """Return the value by which it fires at a time of a steady clock, None if it does not."""
        value = self._value(seen, risen, now)
        if not self.condition.holds(value):
            self._since = None
            if self._false_since is None:
                self._false_since = now
            if now - self._false_since >= REARM_S:
                self._fired = False
            return None
        self._false_since = None
        if self._since is None:
            self._since = now
        if self._fired or now - self._since < self.condition.lasting:
            return None
        self._fired = True
        return value

    def _value(self, seen: Seen, risen: dict[str, int], now: float) -> float:
        counter = self.condition.counter
        if counter is None:
            return GAUGES[self.condition.name].of(seen)
        self._rises.append((now, risen[counter]))
        while len(self._rises) > 1 and self._rises[1][0] <= now - self.condition.per:
            self._rises.popleft()
        return float(risen[counter] - self._rises[0][1])
