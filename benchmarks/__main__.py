"""Measure what the recorder costs, against the bare receive loop and against ss, in one run.

    python -m benchmarks [--parts sockets families namespaces closes]
                         [--sockets 20000 100000] [--layouts uniform mixed] [--rounds 7] [--live 60]

Every figure is CPU time, and what counts is ratios: machines differ, and so do their hours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.parts import closes, families, namespaces, sockets
from recorder.imports import leave_out_pandas


def main() -> None:
    """Measure the parts named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts: dict[str, Callable[[], None]] = {
        "sockets": lambda: sockets.run(
            options.sockets, options.layouts, options.rounds, options.live
        ),
        "families": families.run,
        "namespaces": namespaces.run,
        "closes": closes.run,
    }
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    alone = parser.add_argument_group("of part sockets")
    alone.add_argument("--sockets", type=int, nargs="+", default=[20_000, 100_000])
    alone.add_argument("--layouts", nargs="+", choices=sockets.LAYOUTS, default=sockets.LAYOUTS)
    alone.add_argument("--rounds", type=int, default=7)
    alone.add_argument("--live", type=int, default=60, help="seconds recorded live, 0 for none")
    options = parser.parse_args()
    leave_out_pandas()
    for part in options.parts:
        parts[part]()


if __name__ == "__main__":
    main()
