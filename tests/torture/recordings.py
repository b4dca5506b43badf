"""What a recording holds, as the analyzer reads it, and what it says of what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from recorder.schema import TABLES

DEADLINE = 120.0
"""Seconds for any command; one that takes longer hangs."""


class TortureError(Exception):
    """What must not happen."""


@dataclass(frozen=True)
class Read:
    """The rows of a recording as checksums, by table, its samples, and whether more was told."""

    rows: dict[str, Counter[int]]
    samples: frozenset[int]
    told: str


def command(*args: object, may_fail: bool = True, env: dict[str, str] | None = None) -> str:
    """Run a command of sockrec; return what it said. Raises TortureError for a crash or a hang."""
    words = [sys.executable, "-m", "sockrec", *map(str, args)]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=DEADLINE, check=False, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise TortureError(f"hangs: {' '.join(words)}") from error
    said = done.stdout + done.stderr
    check_end(" ".join(words), done.returncode, said)
    if done.returncode and not may_fail:
        raise TortureError(f"fails: {' '.join(words)}: {said}")
    if done.returncode and not done.stderr and args[0] != "verify":
        raise TortureError(f"fails without a word: {' '.join(words)}")
    return said


def check_end(what: str, status: int, said: str) -> None:
    """Raise TortureError for a traceback or a signal."""
    if "Traceback" in said or "Fatal Python error" in said:
        raise TortureError(f"traceback: {what}: {said}")
    if status < 0 or status > 2:
        raise TortureError(f"ended with {status}: {what}: {said}")


def read(recording: Path) -> Read | None:
    """Read every row of every table in another process; None if it is refused, in words."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.recordings", str(recording)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    check_end(f"reading {recording}", done.returncode, done.stderr)
    if done.returncode:
        if not done.stderr:
            raise TortureError(f"{recording}: is refused without a word")
        return None
    found = json.loads(done.stdout)
    rows = {table: Counter(found["rows"][table]) for table in TABLES}
    return Read(rows, frozenset(found["samples"]), done.stderr)


def _main(recording: Path) -> None:
    import analyzer
    from recorder.schema import SockrecError

    try:
        with analyzer.open(recording) as opened:
            rows: dict[str, list[int]] = {}
            samples: set[int] = set()
            for name, table in TABLES.items():
                columns = ", ".join(table.names)
                answer = opened.sql(f"SELECT {columns} FROM {name}").table()
                found = answer.to_pylist()
                rows[name] = [zlib.crc32(repr(sorted(row.items())).encode()) for row in found]
                if name == "samples":
                    samples = {row["sample"] for row in found}
            for line in opened.engine.news():
                print(line, file=sys.stderr)
    except (SockrecError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"rows": rows, "samples": sorted(samples)}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
