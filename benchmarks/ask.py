"""One question to a recording in a process of its own, so that its peak memory is its own too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import analyzer
from analyzer.sql.catalog import read_findings
from recorder.schema import SockrecError

ROOT = Path(__file__).parents[1]

TIMEOUT_S = 120.0

WATCH_S = 0.02
"""How often the spill directory is looked at."""

REPORT, FINDING, SUMMARY, SQL = "report", "finding", "summary", "sql"


@dataclass(frozen=True)
class Question:
    """A report or finding by its name, everything that summary looks for, or a SELECT."""

    kind: str
    text: str = ""

    def __str__(self) -> str:
        names = {REPORT: self.text, FINDING: f"finding {self.text}", SQL: "sort of all rows"}
        return names.get(self.kind, self.kind)


@dataclass(frozen=True)
class Limits:
    """What a query may use; memory as DuckDB writes it."""

    threads: int = 2
    memory: str | None = None


@dataclass(frozen=True)
class Answered:
    """What an answer took, without the opening of the recording, or why there was none.

    ``spilled`` is how many bytes lay in the temporary directory at most, ``left`` which files it
    holds in the end.
    """

    seconds: float
    rows: int
    peak_kib: int
    error: str | None = None
    spilled: int = 0
    left: tuple[str, ...] = ()


def ask(recording: Path, question: Question, limits: Limits, spill: Path) -> Answered:
    """Ask in a new process, whose temporary directory is an empty one of the caller's."""
    words = [question.kind, question.text, str(limits.threads), limits.memory or ""]
    command = [sys.executable, "-m", "benchmarks.ask", str(recording.absolute()), *words]
    spilled = 0
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(spill)},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        while child.poll() is None:
            spilled = max(spilled, _bytes_in(spill))
            time.sleep(WATCH_S)
        assert child.stdout is not None
        said = child.stdout.read()
    left = tuple(sorted(str(path.relative_to(spill)) for path in spill.rglob("*")))
    if child.returncode:
        return Answered(0.0, 0, 0, f"ended with {child.returncode}", spilled, left)
    return Answered(**json.loads(said) | {"spilled": spilled, "left": left})


def _bytes_in(directory: Path) -> int:
    """Return how much of the disk the files below a directory take."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _answer(recording: str, kind: str, text: str, threads: int, memory: str | None) -> Answered:
    """Ask in this process."""
    error, rows, begun = None, 0, time.monotonic()
    with analyzer.open(
        recording, threads=threads, memory_limit=memory, timeout=TIMEOUT_S
    ) as opened:
        begun = time.monotonic()
        try:
            if kind == SUMMARY:
                rows = len(opened.summary().found)
            else:
                if kind == SQL:
                    answer = opened.sql(text)
                else:
                    answer = opened.report(text if kind == REPORT else read_findings()[text])
                with answer.batches() as (_, batches):
                    rows = sum(batch.num_rows for batch in batches)
        except SockrecError as failure:
            error = str(failure)
        seconds = time.monotonic() - begun
    return Answered(seconds, rows, _peak_kib(), error)


def _peak_kib() -> int:
    """Return the peak memory of this program; ru_maxrss would be the parent's, if that had more."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise LookupError("/proc/self/status has no VmHWM")


def main(words: Sequence[str]) -> None:
    """Answer the question of the command line; print what it took as JSON."""
    recording, kind, text, threads, memory = words
    print(json.dumps(asdict(_answer(recording, kind, text, int(threads), memory or None))))


if __name__ == "__main__":
    main(sys.argv[1:])
