"""A recording made by the real command: what it costs, and what each of its steps does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recorder.format.files import journal_name
from recorder.format.journal import read_commits
from recorder.store.directory import Directory
from recorder.store.journal import open_journals

INTERVAL_S = 1.0

LATE = 0.1
"""Of the interval: a sample begun later than this is late."""

SETTLE = 2.95
"""Intervals left out after the first sample was begun: later the sealing child has started, and
caches are warm. Just before a sample is due, the one before is done."""


class LiveError(Exception):
    """The recorder failed; it has said why."""


@dataclass(frozen=True)
class Cost:
    """A step in the median sample, over all namespaces."""

    rows: int
    cpu_us: int


@dataclass(frozen=True)
class Live:
    """The samples of a recording once it has settled, without the one at its end.

    ``sampler_s`` is what the sampler spent on them, its thread for closes included; ``sealing_s``
    what its child spent, until all was sealed. ``peaks`` is memory in KiB by process.
    """

    directory: Path
    samples: pa.Table
    sampler_s: float
    sealing_s: float
    peaks: dict[str, int]
    interval_s: float = INTERVAL_S

    @cached_property
    def whole(self) -> list[dict[str, Any]]:
        """Return sample_time, late_us, skipped and ``took_s`` of each sample."""
        facts = ["sample_time", "late_us", "skipped"]
        table = self.samples.group_by(facts).aggregate([("t0", "min"), ("t1", "max")])
        return [
            row | {"took_s": (row["t1_max"] - row["t0_min"]).total_seconds()}
            for row in table.to_pylist()
        ]

    @property
    def count(self) -> int:
        return len(self.whole)

    @property
    def sample_s(self) -> float:
        """CPU seconds of the sampler for each sample."""
        return self.sampler_s / self.count

    @property
    def sealed_s(self) -> float:
        """CPU seconds for each sample, sealing included."""
        return (self.sampler_s + self.sealing_s) / self.count

    def lateness(self) -> str:
        """Say how many samples were late or left out, and how long the median one took."""
        late = sum(row["late_us"] > LATE * self.interval_s * 1e6 for row in self.whole)
        skipped = sum(row["skipped"] for row in self.whole)
        most = max(row["late_us"] for row in self.whole) / 1000
        took = median(row["took_s"] for row in self.whole) * 1000
        return (
            f"{self.count} samples at {1 / self.interval_s:g} Hz, {late} late, {skipped} skipped "
            f"(target 0); latest by {most:.0f} ms, median took {took:.0f} ms"
        )

    def memory(self) -> str:
        """Say how much memory each process had at most."""
        return ", ".join(f"{name} {kib / 1024:.0f} MiB" for name, kib in sorted(self.peaks.items()))

    def costs(self) -> dict[str, Cost]:
        """Return what each step costs."""
        names = ["rows", "cpu_us"]
        every = [(name, "sum") for name in names]
        sums = self.samples.group_by(["step", "sample"]).aggregate(every)
        costs = {}
        for step in dict.fromkeys(self.samples["step"].to_pylist()):
            mine = sums.filter(pc.field("step") == step)
            columns = (mine[f"{name}_sum"].to_pylist() for name in names)
            costs[step] = Cost(*(round(median(value or 0 for value in one)) for one in columns))
        return costs

    def show_steps(self, most: int = 5) -> None:
        """Print that many steps, the dearest first."""
        dearest = sorted(self.costs().items(), key=lambda item: -item[1].cpu_us)
        for step, cost in dearest[:most]:
            each = f"{cost.cpu_us / cost.rows:8.2f} µs a row" if cost.rows else ""
            line = f"    {step:<16}{cost.cpu_us / 1000:26.1f} ms {cost.rows:>9,} rows {each}"
            print(line.rstrip(), flush=True)

    def sources(self, step: str) -> set[str | None]:
        """Return how a step was read: diag, proc, or None where it was not."""
        return set(self.samples.filter(pc.field("step") == step)["source"].to_pylist())

    def a_sample(self, step: str, outcome: str | None = None) -> float:
        """Return how many namespaces have a row of this step and outcome in the mean sample."""
        mine = self.samples.filter(pc.field("step") == step)
        if outcome is not None:
            mine = mine.filter(pc.field("outcome") == outcome)
        return float(mine.num_rows / self.count)


def _begun(path: Path) -> bool:
    """Tell whether a sample of a recording is committed."""
    try:
        directory = Directory.open(path)
    except OSError:
        return False
    try:
        with open_journals(directory, 1) as journals:
            return bool(read_commits(journals).commits)
    finally:
        directory.close()


class Recorder:
    """A recording being made, past its first samples."""

    def __init__(
        self, child: subprocess.Popen[bytes], directory: Path, interval_s: float = INTERVAL_S
    ) -> None:
        self.pid = child.pid
        self._interval_s = interval_s
        self._child = child
        self._directory = directory
        while not _begun(directory):
            if child.poll() is not None:
                raise LiveError(f"the recorder ended with {child.returncode}")
            time.sleep(0.02)
        with pa.OSFile(str(directory / "samples" / journal_name(1))) as journal:
            first = pa.ipc.open_stream(journal).read_next_batch()["sample_time"][0].as_py()
        self._begun = first.replace(tzinfo=UTC).timestamp() + SETTLE * interval_s
        time.sleep(max(0.0, self._begun - time.time()))
        self._sampler_s = cpu_of(self.pid)
        self._sealer_s = sum(map(cpu_of, children_of(self.pid)))

    def finish(self) -> Live:
        """End it a whole number of intervals after it was begun."""
        time.sleep((self._begun - time.time()) % self._interval_s)
        ended, sampler_s = time.time(), cpu_of(self.pid)
        self._child.send_signal(signal.SIGINT)
        peaks: dict[str, int] = {}
        sealer_s = 0.0
        while self._child.poll() is None:
            _raise_to(peaks, "sampler", self.pid)
            for sealer in children_of(self.pid):
                _raise_to(peaks, "sealer", sealer)
                with suppress(OSError):
                    sealer_s = cpu_of(sealer)
            time.sleep(0.01)
        if self._child.returncode:
            raise LiveError(f"the recorder ended with {self._child.returncode}")
        samples = pq.read_table(self._directory / "samples")
        first, last = (
            datetime.fromtimestamp(t, UTC).replace(tzinfo=None) for t in (self._begun, ended)
        )
        time_of = pc.field("sample_time")
        return Live(
            self._directory,
            samples.filter((time_of > first) & (time_of < last)),
            sampler_s - self._sampler_s,
            sealer_s - self._sealer_s,
            peaks,
            self._interval_s,
        )


@contextmanager
def recording(directory: Path, *options: str, interval_s: float = INTERVAL_S) -> Iterator[Recorder]:
    """Record into a directory that is not there yet; the caller finishes it, or it is interrupted.

    Raises LiveError.
    """
    words = [sys.executable, "-m", "sockrec", "record", "-q", "-o", str(directory)]
    words += ["-i", f"{interval_s * 1000:.0f}ms", *options]
    with subprocess.Popen(words, cwd=Path(__file__).parents[1]) as child:
        try:
            yield Recorder(child, directory, interval_s)
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGINT)


def record(directory: Path, seconds: float, *options: str, interval_s: float = INTERVAL_S) -> Live:
    """Record for that long. Raises LiveError."""
    with recording(directory, *options, interval_s=interval_s) as recorder:
        time.sleep(seconds)
        return recorder.finish()


def children_of(pid: int) -> list[int]:
    """Return the processes that a process began and that are there."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _raise_to(peaks: dict[str, int], name: str, pid: int) -> None:
    """Note the peak memory of a process, if it lives and has more than was noted."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                peaks[name] = max(peaks.get(name, 0), int(line.split()[1]))


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a living process, by the clock of clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)
