"""Measure what recorder and reports cost, against a bare receive loop, ss and a bare scan.

    python -m benchmarks [--parts sockets families filtered namespaces beneath closes ...]
                         [--sockets 20000 100000] [--layouts uniform mixed] [--rounds 7] [--live 60]
                         [--interval 1]
                         [--recording DIR] [--times 3] [--threads 2] [--findings] [--markdown]
                         [--minutes 30]

What counts is ratios: machines differ, and so do their hours. What the recorder costs is CPU time,
what an answer costs is the time until it is there. A million sockets, held by 63 processes:

    python -m benchmarks --parts sockets --sockets 1000000 --layouts uniform --live 180 --interval 5
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.parts import (
    beneath,
    closes,
    families,
    filtered,
    left_on,
    memory,
    namespaces,
    reports,
    sockets,
    ss,
)
from recorder.store.imports import leave_out_pandas


def main() -> None:
    """Measure the parts named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts: dict[str, Callable[[], None]] = {
        "sockets": lambda: sockets.run(
            options.sockets, options.layouts, options.rounds, options.live, options.interval
        ),
        "families": families.run,
        "filtered": filtered.run,
        "namespaces": namespaces.run,
        "beneath": beneath.run,
        "closes": closes.run,
        "reports": lambda: reports.run(
            options.recording,
            options.times,
            options.threads,
            findings=options.findings,
            markdown=options.markdown,
        ),
        "ss": lambda: ss.run(options.recording, options.times),
        "memory": lambda: memory.run(options.threads, markdown=options.markdown),
        "left_on": lambda: left_on.run(options.minutes),
    }
    parser.add_argument(
        "--parts", nargs="+", choices=parts, default=[p for p in parts if p != "left_on"]
    )
    alone = parser.add_argument_group("of part sockets")
    alone.add_argument("--sockets", type=int, nargs="+", default=[20_000, 100_000])
    alone.add_argument("--layouts", nargs="+", choices=sockets.LAYOUTS, default=sockets.LAYOUTS)
    alone.add_argument("--rounds", type=int, default=7)
    alone.add_argument("--live", type=int, default=60, help="seconds recorded live, 0 for none")
    alone.add_argument("--interval", type=float, default=1.0, help="of those, in seconds")
    asked = parser.add_argument_group("of parts reports, ss and memory")
    asked.add_argument("--recording", type=Path, help="to ask, rather than make one of 6 M rows")
    asked.add_argument("--times", type=int, default=3, help="that each report or ss is asked")
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--findings", action="store_true", help="ask each finding alone too")
    asked.add_argument("--markdown", action="store_true", help="print tables for the README")
    long = parser.add_argument_group("of part left_on, which runs only where it is named")
    long.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    leave_out_pandas()
    for part in options.parts:
        parts[part]()


if __name__ == "__main__":
    main()
