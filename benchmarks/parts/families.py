"""What 10,000 sockets of each kind cost: the step that reads them, and the whole sample."""

from __future__ import annotations

from benchmarks.families import KINDS, FamiliesError, sockets_of
from benchmarks.live import Live, record
from benchmarks.measure import Requests, drain, floor_live, scratch, show
from recorder.host import facts
from recorder.kernel.tables import EVERYTHING, DiagWay, Steps

SOCKETS = 10_000
SECONDS = 10


def run() -> None:
    """Print the cost of each kind; the floor is a bare receive loop over the same dump."""
    drain()
    print(f"{SOCKETS:,} sockets of each kind, all of one process, recorded at 1 Hz:")
    alone = _record()
    show("a sample without them", alone.sample_s)
    for kind in KINDS:
        try:
            with sockets_of(kind, SOCKETS):
                _one(kind, alone)
        except FamiliesError as error:
            print(f"  {error}", flush=True)


def _one(kind: str, alone: Live) -> None:
    live = _record()
    cost = live.costs()[kind]
    base = None
    if "diag" in live.sources(kind):
        base = floor_live(5, _requests(kind))
        show(f"{kind}: floor, once a second", base, base)
    if cost.rows:
        each = f"{cost.cpu_us / cost.rows:.2f} µs a row of {cost.rows:,}"
        show(f"{kind}: receive and decode", cost.cpu_us / 1e6, base, each)
    rows = _rows(live) - _rows(alone)
    more = live.sample_s - alone.sample_s
    each = f"{more * 1e6 / rows:.2f} µs a row of {rows:,}" if rows else "this kernel lists none"
    show(f"{kind}: a whole sample, more by", more, base, each)


def _record() -> Live:
    with scratch() as directory:
        return record(directory / "recording", SECONDS)


def _rows(live: Live) -> int:
    """Return how many sockets a sample has, a subflow of MPTCP and its connection being two."""
    costs = live.costs()
    return sum(costs[step.name].rows for step in Steps(EVERYTHING, facts.release()))


def _requests(name: str) -> Requests:
    """Return the dump requests that the recorder makes for a step."""
    way = next(step for step in Steps(EVERYTHING, facts.release()) if step.name == name).ways[0]
    assert isinstance(way, DiagWay)
    return way.requests
