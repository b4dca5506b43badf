"""How soon ``sockrec ss`` answers, against ss where as many sockets are there now."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.crowd import ROOT, SOCKETS, record_crowd
from benchmarks.measure import scratch
from benchmarks.population import population
from tests.workloads.netns import inside, lacking, namespace

OPTIONS = ("-tan", "-tanp", "-tani", "-s", "-tan ( dport = :443 or sport < :33000 )")


class Taken(NamedTuple):
    """Seconds to the first line and to the end, CPU seconds, and the lines of one command."""

    first: float
    whole: float
    cpu: float
    lines: int


def run(recording: Path | None, times: int) -> None:
    """Print what each takes and their ratio; a recording is made where none is given."""
    if why := lacking("ss"):
        print(f"ss: {why}")
        return
    with scratch() as directory, namespace() as name:
        if recording is None:
            recording = directory / "recording"
            record_crowd(recording)
        again = [sys.executable, "-m", "benchmarks.parts.ss", str(recording.absolute()), str(times)]
        subprocess.run(inside(name, *again), cwd=ROOT, check=True)


def _compare(recording: str, times: int) -> None:
    """Ask both in turn, so that both meet the same hours."""
    ours = [sys.executable, "-m", "sockrec", "ss", recording]
    print(
        f"first line of ss, and of sockrec ss at the last moment of a recording, best of {times}:"
    )
    with population(SOCKETS, mixed=True):
        for option in OPTIONS:
            words = option.split()
            runs = [(_taken(["ss", *words]), _taken([*ours, *words])) for _ in range(times)]
            theirs, own = (_best(list(taken)) for taken in zip(*runs, strict=True))
            print(
                f"  {option:<6}{theirs.lines:9,} and {own.lines:,} lines: {theirs.first:.2f} and "
                f"{own.first:.2f} s = {own.first / theirs.first:.1f} x; all of them "
                f"{theirs.whole:.2f} and {own.whole:.2f} s = {own.whole / theirs.whole:.1f} x; CPU "
                f"{theirs.cpu:.2f} and {own.cpu:.2f} s = {own.cpu / max(theirs.cpu, 1e-3):.1f} x",
                flush=True,
            )


def _best(taken: Sequence[Taken]) -> Taken:
    first, whole, cpu = (min(one[place] for one in taken) for place in range(3))
    return Taken(first, whole, cpu, round(median(one.lines for one in taken)))


def _taken(command: Sequence[str]) -> Taken:
    begun = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    first = time.perf_counter() - begun
    lines = 1 + sum(1 for _ in child.stdout)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Taken(first, time.perf_counter() - begun, used.ru_utime + used.ru_stime, lines)


if __name__ == "__main__":
    _compare(sys.argv[1], int(sys.argv[2]))
