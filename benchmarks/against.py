"""What each report and the summary cost in two checkouts, asked of the same recording in turn.

    python -m benchmarks.against CHECKOUT RECORDING [--times 5] [--threads 2] [--names NAME...]

CHECKOUT is another clone, with its .venv (make lint). What is compared is CPU time of
the answer and of opening, as two runs beside each other meet the same machine, and peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from analyzer.sql.catalog import read_catalog
from benchmarks.ask import ROOT

SUMMARY = "summary"


_ASK = """
import sys, time
import analyzer
begun = time.process_time()
with analyzer.open(sys.argv[1], threads=int(sys.argv[3])) as opened:
    there = time.process_time()
    if sys.argv[2] == "summary":
        opened.summary()
    else:
        opened.report(sys.argv[2]).table()
    print(there - begun, time.process_time() - there)
"""
"""What both checkouts understand."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of opening and of the answer, and the peak memory of the process."""

    open_s: float
    answer_s: float
    peak_kib: int


def cost(checkout: Path, recording: Path, name: str, threads: int) -> Cost:
    """Ask in a process of a checkout. Raises CalledProcessError if it fails."""
    command = [str(checkout / ".venv/bin/python"), "-c", _ASK, str(recording), name, str(threads)]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    opening, answer = map(float, said.split())
    return Cost(opening, answer, used.ru_maxrss)


def main() -> None:
    """Compare this checkout with the one named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--names", nargs="+", default=[*read_catalog(), SUMMARY])
    options = parser.parse_args()
    recording, there = options.recording.absolute(), options.checkout.absolute()
    print(f"CPU seconds here and in {there}, {options.threads} threads:")
    print(f"  {'':<26}{'here':>8}{'there':>8}{'ratio':>8}{'peak MiB':>10}{'there':>8}")
    openings: list[tuple[float, float]] = []
    for name in options.names:
        pairs = [
            (
                cost(ROOT, recording, name, options.threads),
                cost(there, recording, name, options.threads),
            )
            for _ in range(options.times)
        ]
        openings += [(a.open_s, b.open_s) for a, b in pairs]
        peaks = [max(pair[k].peak_kib for pair in pairs) / 1024 for k in (0, 1)]
        memory = f"{peaks[0]:10.0f}{peaks[1]:8.0f}"
        print(f"{_line(name, [(a.answer_s, b.answer_s) for a, b in pairs])}{memory}", flush=True)
    print(_line("opening", openings))


def _line(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    here, there = (median(pair[k] for pair in pairs) for k in (0, 1))
    return f"  {name:<26}{here:8.2f}{there:8.2f}{median(a / b for a, b in pairs):8.2f}"


if __name__ == "__main__":
    main()
