"""A recording of many sockets in a network namespace of its own, for what asks recordings.

    python -m benchmarks.crowd DIR

records 100,000 sockets of all layouts, 10 % of them active, beside TIME-WAITs and short
connections, 61 times at 1 Hz: six million rows. Needs root.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.population import population
from tests.workloads.netns import inside, namespace

ROOT = Path(__file__).parents[1]
CHURN = str(ROOT / "tests" / "workloads" / "churn.py")

SOCKETS, ACTIVE, SAMPLES = 100_000, 0.1, 61
SHORT_A_SECOND = 200
"""Connections that come and go beside those that stay."""

_INSIDE = "--inside"


class CrowdError(Exception):
    """The recording could not be made; what failed has said why."""


def record_crowd(directory: Path) -> None:
    """Record into a directory that is not there yet. Raises CrowdError."""
    with namespace() as name:
        again = [sys.executable, "-m", "benchmarks.crowd", str(directory.absolute()), _INSIDE]
        status = subprocess.run(inside(name, *again), cwd=ROOT).returncode
    if status:
        raise CrowdError(f"recording {SOCKETS:,} sockets ended with {status}")


def _record_here(directory: str) -> int:
    churn = [sys.executable, CHURN, "--rate", str(SHORT_A_SECOND), "--seconds", str(SAMPLES)]
    record = [sys.executable, "-m", "sockrec", "record", "-q", "-o", directory]
    record += ["-n", str(SAMPLES), "--netns", "current"]
    with (
        population(SOCKETS, mixed=True, active=ACTIVE),
        subprocess.Popen(churn, stdout=subprocess.DEVNULL) as churning,
    ):
        recorded = subprocess.run(record, cwd=ROOT).returncode
        return recorded or churning.wait()


def main() -> int:
    """Record into the directory named on the command line."""
    if sys.argv[2:] == [_INSIDE]:
        return _record_here(sys.argv[1])
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    record_crowd(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
