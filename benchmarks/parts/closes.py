"""What short connections cost, and how many of them are seen."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.live import Live, recording
from benchmarks.measure import scratch, show
from tests.workloads.churn import Truth
from tests.workloads.netns import inode_of, inside, lacking, namespace

ROOT = Path(__file__).parents[2]
CHURN = str(ROOT / "tests" / "workloads" / "churn.py")

CONNECTIONS = 5_000
"""A second; each of them is two sockets."""
SECONDS, LONG_SECONDS = 10, 30

LINGER_S = 1.5
"""The processes live on for a sample, by whose listeners the last closes find their owners."""


@dataclass(frozen=True)
class Churned:
    """A recording beside short connections in a namespace of their own, and what it says."""

    live: Live
    truth: Truth
    coverage: dict[str, Any]

    @property
    def second_s(self) -> float:
        """CPU seconds of the recorder for each second of connections, sealing included."""
        return (self.live.sampler_s + self.live.sealing_s) / self.truth.seconds


def run() -> None:
    """Print the cost of a close, and the connections seen of those that the kernel counted."""
    if why := lacking():
        print(f"closes: {why}")
        return
    print(f"{2 * CONNECTIONS:,} closes a second for {SECONDS} s, recorded at 1 Hz:")
    without = _churned(SECONDS, "--no-closes")
    show("without closes: CPU a second", without.second_s)
    live = _tell(_churned(SECONDS))
    more = live.second_s - without.second_s
    closes = live.coverage["closes"]
    each = more * live.truth.seconds / closes
    show("more for closes: CPU a second", more, None, f"{each * 1e6:.2f} µs a close")
    print(f"{CONNECTIONS:,} short connections a second for {LONG_SECONDS} s, recorded at 1 Hz:")
    _tell(_churned(LONG_SECONDS))


def _tell(churned: Churned) -> Churned:
    live, truth, found = churned.live, churned.truth, churned.coverage
    kernel = truth.kernel["ActiveOpens"] + truth.kernel["PassiveOpens"]
    each = (live.sampler_s + live.sealing_s) / found["closes"]
    show("CPU a second", churned.second_s, None, f"{each * 1e6:.2f} µs a close")
    show("  of which sealing", live.sealing_s / truth.seconds)
    live.show_steps()
    print(
        f"  {found['closes']:,} closes, {found['closes'] / truth.seconds:,.0f} a second; "
        f"{found['lost']:,} lost (target 0)\n"
        f"  {found['seen']:,} connections seen of {kernel:,} that the kernel counted: "
        f"{found['seen'] / kernel:.6f} (target 0.999)\n"
        f"  {live.lateness()}\n"
        f"  peak memory: {live.memory()} (target 300 each)",
        flush=True,
    )
    return churned


def _churned(seconds: float, *options: str) -> Churned:
    with (
        scratch() as directory,
        namespace() as name,
        recording(directory / "recording", *options) as recorder,
    ):
        path = directory / "truth.json"
        work = ["--rate", str(CONNECTIONS), "--seconds", str(seconds), "--linger", str(LINGER_S)]
        command = inside(name, sys.executable, CHURN, "--truth", str(path), *work)
        subprocess.run(command, check=True)
        live = recorder.finish()
        truth = Truth(**json.loads(path.read_text()))
        return Churned(live, truth, _coverage(live.directory, inode_of(name)))


def _coverage(directory: Path, netns: int) -> dict[str, Any]:
    """Return the row of a namespace in the report of that name."""
    command = [sys.executable, "-m", "sockrec", "report", "coverage", str(directory)]
    command += ["--format", "json", "-p", "top=0"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return next(row for row in rows if row["netns"] == netns)
