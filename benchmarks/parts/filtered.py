"""What a sample costs that a filter lets one socket in a hundred of, against one of all."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.crowd import ROOT, SOCKETS
from benchmarks.live import Live, record
from benchmarks.measure import scratch, show
from benchmarks.population import population
from tests.workloads.netns import inside, lacking, namespace

FILTER = " or ".join(f"( {port} >= :40000 and {port} < :40280 )" for port in ("sport", "dport"))
"""Both ends of a hundredth of the connections: ports are taken from some 28,000."""

SECONDS = 15


def run() -> None:
    """Print what each takes, and their ratio."""
    if why := lacking():
        print(f"filtered: {why}")
        return
    with namespace() as name:
        again = [sys.executable, "-m", "benchmarks.parts.filtered"]
        subprocess.run(inside(name, *again), cwd=ROOT, check=True)


def _compare() -> None:
    print(f"a sample a second of {SOCKETS:,} sockets, all, and by {FILTER!r}:")
    with scratch() as directory, population(SOCKETS, active=0.1):
        options = ("--netns", "current")
        whole = record(directory / "whole", SECONDS, *options)
        some = record(directory / "some", SECONDS, *options, FILTER)
        for name, live in (("all", whole), ("filtered", some)):
            show(f"{name}: {_sockets(live):,.0f} sockets a sample", live.sealed_s)
        print(
            f"  kept {_sockets(some) / _sockets(whole):.2%} at "
            f"{some.sealed_s / whole.sealed_s:.2f} x the CPU, sealing included",
            flush=True,
        )


def _sockets(live: Live) -> float:
    """Return the sockets of a sample, on average."""
    files = sorted((live.directory / "sockets").glob("*.parquet"))
    tables = [pq.read_table(file, columns=["sample"]) for file in files]
    if not tables:  # the filter let nothing through
        return 0.0
    samples = pa.concat_tables(tables)["sample"]
    return len(samples) / len(samples.unique())


if __name__ == "__main__":
    _compare()
