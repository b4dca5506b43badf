"""Whether a recorder that is left on stays within its bound and takes no more as time goes by."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

from benchmarks.live import children_of, cpu_of
from benchmarks.measure import scratch
from benchmarks.population import population
from tests.workloads.netns import inside, lacking, namespace

ROOT = Path(__file__).parents[2]
CHURN = str(ROOT / "tests" / "workloads" / "churn.py")

HELD, ACTIVE = 3_000, 0.1
CONNECTIONS = 200
"""Short ones a second; each of them is two sockets."""
KEPT_MB = 50
LOOKS_A_SECOND = 10


@dataclass(frozen=True)
class Look:
    """What was seen from outside: seconds since the start, bytes, and the recorder's own."""

    at_s: float
    size: int
    resident_mb: float
    descriptors: int
    threads: int
    cpu_s: float


def run(minutes: float) -> None:
    """Record at 10 Hz for so long, within a bound; print what was seen from outside."""
    if why := lacking():
        print(f"left_on: {why}")
        return
    print(
        f"{minutes:g} minutes at 10 Hz with --keep-size {KEPT_MB}M, {HELD:,} sockets held, "
        f"{2 * CONNECTIONS} closes a second, a trigger:",
        flush=True,
    )
    with (
        scratch() as directory,
        namespace() as name,
        population(HELD, active=ACTIVE),
        subprocess.Popen(_churn(name, minutes), stdout=subprocess.DEVNULL) as churn,
    ):
        kept = directory / "recording"
        with subprocess.Popen(_record(kept, minutes), cwd=ROOT) as recorder:
            looks = _watch(kept, recorder)
        churn.terminate()
        if recorder.returncode:
            print(f"  the recorder ended with {recorder.returncode}")
        _tell(looks, len(list((directory / "incidents").glob("*"))))


def _churn(name: str, minutes: float) -> list[str]:
    work = ["--rate", str(CONNECTIONS), "--seconds", str(minutes * 60)]
    return inside(name, sys.executable, CHURN, *work)


def _record(directory: Path, minutes: float) -> list[str]:
    words = [sys.executable, "-m", "sockrec", "record", "-o", str(directory), "-i", "100ms"]
    words += ["-d", f"{round(minutes * 60)}s", "--keep-size", f"{KEPT_MB}M"]
    return [*words, "--on", "time_wait > 100", "--pre", "10s", "--post", "5s"]


def _watch(directory: Path, recorder: subprocess.Popen[bytes]) -> list[Look]:
    """Look at directory and process until the process has ended."""
    looks: list[Look] = []
    begun, pause = time.monotonic(), threading.Event()
    while recorder.poll() is None:
        with suppress(OSError):  # it ends while it is looked at
            own = Path(f"/proc/{recorder.pid}")
            resident, threads = _own(own)
            cpu_s = sum(map(cpu_of, [recorder.pid, *children_of(recorder.pid)]))
            descriptors = sum(1 for _ in (own / "fd").iterdir())
            if resident:  # it has not ended yet
                at_s, size = time.monotonic() - begun, _size(directory)
                looks.append(Look(at_s, size, resident, descriptors, threads, cpu_s))
        pause.wait(1 / LOOKS_A_SECOND)
    return looks


def _own(process: Path) -> tuple[float, int]:
    """Return MB of memory, 0 once it has ended, and threads; proc(5)."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return int(fields[21]) * resource.getpagesize() / 1e6, int(fields[17])


def _size(directory: Path) -> int:
    """Return the bytes of all files, as many as a name was found for."""
    size = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.lstat().st_size if path.is_file() else 0
    return size


def _tell(looks: list[Look], incidents: int) -> None:
    if len(looks) < 4:
        print("  it ended before it could be looked at")
        return
    most, bound = max(look.size for look in looks), KEPT_MB * 1024 * 1024
    over = sum(look.size > bound for look in looks)
    print(
        f"  {len(looks):,} looks: at most {most / 1e6:.1f} of {bound / 1e6:.1f} MB, {over} over it"
    )
    later = looks[len(looks) // 2 :]
    minutes = [look.at_s / 60 for look in later]
    slope = linear_regression(minutes, [look.resident_mb for look in later]).slope
    for name, values in (
        ("MB resident", [look.resident_mb for look in later]),
        ("descriptors", [look.descriptors for look in later]),
        ("threads", [look.threads for look in later]),
    ):
        least, middle, greatest = min(values), median(values), max(values)
        print(f"  second half: {least:.0f} to {greatest:.0f} {name}, median {middle:.0f}")
    print(f"  second half: memory rises by {slope:+.3f} MB a minute")
    span = looks[-1].at_s - looks[0].at_s
    used = (looks[-1].cpu_s - looks[0].cpu_s) / span
    print(f"  {used:.0%} of a core, sealing included")
    print(f"  {incidents} incidents kept", flush=True)
