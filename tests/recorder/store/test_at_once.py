"""Two processes at one recording: each is right, or says in a line why it is not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recorder.store.test_damage import sealed_pairs
from tests.recorder.support.journals import (
    is_sealed,
    journal_path,
    numbers,
    segment_path,
    write,
)

DEADLINE = 60.0


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a Python whose streams are pipes; it is gone afterwards."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    line = [sys.executable, *words]
    with subprocess.Popen(line, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def locks(listing: Path, process: subprocess.Popen[str]) -> int:
    """Return who has locked the list of segments, as the kernel tells it, once somebody has."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            lock = rf"FLOCK .* (\d+) [0-9a-f]+:[0-9a-f]+:{listing.stat().st_ino} "
            if found := re.search(lock, Path("/proc/locks").read_text()):
                return int(found[1])
    raise AssertionError(f"never locked: {process.communicate()}")


def test_of_two_recovers_at_once_one_is_refused_in_words_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    pairs = [pair for n in (1, 2, 3) for pair in write(tmp_path, samples=3, number=n)]
    with started("-m", "sockrec", "recover", str(tmp_path)) as first:
        holder = locks(tmp_path / "segments.jsonl", first)
        os.kill(holder, signal.SIGSTOP)
        with started("-m", "sockrec", "recover", str(tmp_path)) as second:
            out, told = second.communicate(timeout=DEADLINE)
            assert second.returncode == 1
            assert not out
            assert told.count("\n") == 1
            assert "is being written, by a recorder or by recover" in told
        os.kill(holder, signal.SIGCONT)
        out, told = first.communicate(timeout=DEADLINE)
    assert (first.returncode, told) == (0, "")
    assert out.startswith("3 segments sealed")
    assert sealed_pairs(tmp_path) == Counter(pairs)
    assert numbers(tmp_path) == []
    assert not list(tmp_path.rglob("*.tmp"))


READING = """
import sys
import analyzer
from recorder.schema import SockrecError
with analyzer.open(sys.argv[1]) as opened:
    for query in sys.stdin:
        try:
            print(opened.sql(query).table().to_pylist(), flush=True)
        except SockrecError as error:
            print(error, flush=True)
"""


def test_a_journal_that_shrinks_under_its_reader_is_told_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, samples=40, rows=200)
    path = journal_path(tmp_path, "sockets", 1)
    with started("-c", READING, str(tmp_path)) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write("SELECT count(*) AS rows FROM sockets\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "[{'rows': 16000}]\n"
        os.truncate(path, path.stat().st_size // 2)
        out, told = reader.communicate("SELECT sum(bytes_acked) FROM sockets\n", DEADLINE)
    assert (reader.returncode, told) == (0, "")
    assert out.count("\n") == 1
    assert str(path) in out


SHRINKING = """
import os, sys
from pathlib import Path
from recorder.format.journal import JournalFile
from recorder.store import segment
where, name, path, size = sys.argv[1:]
place = JournalFile if where == "JournalFile" else segment
real = getattr(place, name)
def and_shrink(*args):
    found = real(*args)
    os.truncate(Path(path) / "sockets/000001.arrows", int(size))
    return found
setattr(place, name, and_shrink)
sys.argv[1:] = ["recover", path]
import sockrec
sockrec.run()
"""


@pytest.mark.parametrize("after", ["segment read_commits", "JournalFile mapped"])
def test_a_journal_that_shrinks_while_it_is_sealed_is_told_and_none_is_removed(
    tmp_path: Path, after: str
) -> None:
    write(tmp_path, samples=40, rows=200)
    path = journal_path(tmp_path, "sockets", 1)
    half = path.stat().st_size // 2
    done = subprocess.run(
        [sys.executable, "-c", SHRINKING, *after.split(), str(tmp_path), str(half)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done
    assert "was cut short" in done.stderr
    assert path.stat().st_size == half
    assert not is_sealed(tmp_path, 1)
    assert not segment_path(tmp_path, "sockets", 1).exists()
    assert numbers(tmp_path) == [1]
