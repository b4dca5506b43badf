"""What a recording holds, as the analyzer reads it, and what it says of what it does not."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from recorder.schema import TABLES

DEADLINE = 120.0
"""Seconds for any command; one that takes longer hangs."""


# Forks of a process that has loaded what reading needs: loading took longer than reading.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["tests.torture.recordings", "analyzer.sql.engine", "pyarrow.parquet"]
)


class TortureError(Exception):
    """What must not happen."""


@dataclass(frozen=True)
class Read:
    """The rows of a recording as checksums, by table, its samples, and whether more was told."""

    rows: dict[str, Counter[int]]
    samples: frozenset[int]
    told: str


def command(*args: object, may_fail: bool = True) -> str:
    """Run a command of sockrec; return what it said. Raises TortureError for a crash or a hang."""
    words = list(map(str, args))
    done = run(words)
    said = done.stdout + done.stderr
    if done.returncode and not may_fail:
        raise TortureError(f"fails: {' '.join(words)}: {said}")
    return said


def run(
    words: Sequence[str], environment: Mapping[str, str] | None = None, place: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of sockrec somewhere. Raises TortureError for a crash, a hang, or silence."""
    line = [sys.executable, "-m", "sockrec", *words]
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            env=environment,
            cwd=place,
        )
    except subprocess.TimeoutExpired as error:
        raise TortureError(f"hangs: {' '.join(words)}") from error
    check_end(" ".join(words), done.returncode, done.stdout + done.stderr)
    if done.returncode and not done.stderr and words[0] != "verify":
        raise TortureError(f"fails without a word: {' '.join(words)}")
    return done


def check_end(what: str, status: int, said: str) -> None:
    """Raise TortureError for a traceback or a signal."""
    if "Traceback" in said or "Fatal Python error" in said:
        raise TortureError(f"traceback: {what}: {said}")
    if status < 0 or status > 2:
        raise TortureError(f"ended with {status}: {what}: {said}")


def read(recording: Path) -> Read | None:
    """Read every row of every table in another process; None if it is refused, in words."""
    mine, theirs = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_read, args=(recording, theirs))
    process.start()
    theirs.close()
    try:
        if not mine.poll(DEADLINE):
            raise TortureError(f"hangs: reading {recording}")
        answer: Read | str = mine.recv()
    except EOFError:
        process.join()
        raise TortureError(f"reading {recording} ends with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        mine.close()
    if isinstance(answer, Read):
        return answer
    if not answer:
        raise TortureError(f"{recording}: is refused without a word")
    return None


def _read(recording: Path, answers: Connection) -> None:
    """Send what is read, or why it is refused."""
    import analyzer
    from recorder.schema import SockrecError

    try:
        with analyzer.open(recording) as opened:
            rows: dict[str, Counter[int]] = {}
            samples: frozenset[int] = frozenset()
            for name, table in TABLES.items():
                columns = ", ".join(table.names)
                found = opened.sql(f"SELECT {columns} FROM {name}").table().to_pylist()
                rows[name] = Counter(
                    zlib.crc32(repr(sorted(row.items())).encode()) for row in found
                )
                if name == "samples":
                    samples = frozenset(row["sample"] for row in found)
            answers.send(Read(rows, samples, "\n".join(map(str, opened.engine.news()))))
    except (SockrecError, OSError) as error:
        answers.send(str(error))
