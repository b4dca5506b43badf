"""The ring: what is dropped to stay within a bound, that it is told, and that nothing else goes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analyzer
from analyzer.reading.recording import RecordingError, open_recording
from analyzer.sql.verify import verify
from recorder.format.segments import read_list
from recorder.schema import SAMPLES, SOCKETS, VERSION
from recorder.store import ring as ring_module
from recorder.store import writer as writer_module
from recorder.store.directory import Directory, InUseError, open_list
from recorder.store.journal import BatchMaker
from recorder.store.recover import recover
from recorder.store.ring import Keep, Ring, RingError
from recorder.store.writer import Writer
from recorder.wire.columns import Values
from tests.recorder.support.journals import seal, write

FACTS: dict[str, Any] = {"version": VERSION, "unseen": [], "ended": None, "interval_us": 1_000_000}
ROWS = 4000
BOUND = 5 << 20


class Filler:
    """Writes samples of numbers that do not compress; ``run`` prints each that is committed."""

    def __init__(
        self,
        path: Path,
        keep: Keep,
        tell: Callable[[str, str], None] = lambda text, event: None,
        *,
        facts: Mapping[str, Any] = FACTS,
        append: bool = False,
    ) -> None:
        self.writer = Writer(path, dict(facts), keep=keep, tell=tell, append=append)
        _, self._size = self.writer.ring.bounds(3600, 64 << 20)
        self._makers = {table.name: BatchMaker(table) for table in (SOCKETS, SAMPLES)}
        self._random = np.random.default_rng(7)
        self.sample = self._first = self.writer.sample
        self._rows = 0

    def take(self, rows: int = ROWS) -> None:
        """Write a sample, some 120 kB of journal at 4,000 rows."""
        time_us = 1_790_000_000_000_000 + self.sample * 1_000_000
        common = {
            "sample": Values(np.full(rows, self.sample, np.uint32)),
            "sample_time": Values(np.full(rows, time_us, np.int64)),
        }
        numbers = self._random.integers(0, 1 << 62, (3, rows)).astype(np.uint64)
        columns = common | {
            "netns": Values(np.full(rows, 4026531840, np.uint64)),
            "cookie": Values(numbers[0]),
            "bytes_acked": Values(numbers[1]),
            "bytes_received": Values(numbers[2]),
        }
        self.writer.append("sockets", self._makers["sockets"].make(rows, columns))
        one = {name: Values(values.data[:1]) for name, values in common.items()}
        self.writer.append("samples", self._makers["samples"].make(1, one))
        self.writer.commit(self.sample)
        self.sample += 1
        self._rows += rows
        counts = {"samples": self.sample - self._first, "socket_rows": self._rows}
        for name, count in counts.items():
            before = self.writer.counted[name]
            self.writer.manifest.facts[name] = None if before is None else before + count
        self.writer.tell(news=False)
        if self.writer.size >= self._size:
            self.writer.rotate()

    def run(self, samples: int) -> None:
        for _ in range(samples):
            self.take()
            print(self.sample, flush=True)
        self.writer.end("samples")


def contents(path: Path) -> tuple[int, set[int]]:
    """Return how many problems a recording has, and which samples."""
    with analyzer.open(path) as opened:
        found = verify(opened.engine)
        rows = opened.engine.table("SELECT DISTINCT sample FROM sockets")["sample"].to_pylist()
        return len(found.problems), set(rows)


def dropped_samples(path: Path) -> int:
    dropped = read_list(path / "segments.jsonl").dropped
    return 0 if dropped is None else dropped.samples or 0


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def test_the_size_is_a_bound_at_every_moment_with_journals_and_what_is_sealed(
    tmp_path: Path,
) -> None:
    """Looked at from outside, with all that write stopped for each look."""
    target = tmp_path / "r"
    program = (
        "import sys; from pathlib import Path; from tests.recorder.store.test_ring import *;"
        "Filler(Path(sys.argv[1]), Keep(bytes=BOUND)).run(100)"
    )
    most = looks = 0
    with subprocess.Popen(
        [sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 120
        while process.poll() is None:
            assert time.monotonic() < deadline, "the recorder does not end"
            stopped = family(process.pid)
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            files = [path.lstat() for path in (target, *target.rglob("*"))]
            most = max(most, *(sum(sizes) for sizes in zip(*map(_sizes, files), strict=True)))
            looks += 1
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.02)
        assert process.returncode == 0
    assert looks > 10
    assert BOUND / 4 < most <= BOUND
    problems, there = contents(target)
    gone = dropped_samples(target)
    assert gone > 20
    assert (problems, there) == (0, set(range(gone, 100)))


def _sizes(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_blocks * 512


def test_what_does_not_fit_even_alone_ends_in_a_line(tmp_path: Path) -> None:
    filler = Filler(tmp_path / "r", Keep(bytes=1 << 20))
    with pytest.raises(RingError, match="hold not even one sample here"):
        filler.take(80_000)
    filler.writer.end("error")


def test_a_sealing_child_that_hangs_keeps_nothing_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SEALING_PATIENCE_S", 0.1)
    target = tmp_path / "r"
    filler = Filler(target, Keep(bytes=BOUND))
    filler.take()
    _, child = family(os.getpid())[:2]
    os.kill(child, signal.SIGSTOP)
    for _ in range(50):
        filler.take()
    filler.writer.end("samples")
    problems, there = contents(target)
    gone = dropped_samples(target)
    assert gone > 0
    assert (problems, there) == (0, set(range(gone, 51)))


@contextlib.contextmanager
def ring_of(path: Path, keep: Keep, **options: Any) -> Iterator[Ring]:
    directory = Directory.open(path)
    listing = open_list(directory)
    ring = Ring(directory, listing, keep, **{"settle": print, "tell": print} | options)
    try:
        yield ring
    finally:
        os.close(listing)
        directory.close()


def three_numbers(path: Path) -> None:
    path.mkdir(exist_ok=True)
    for number in (1, 2, 3):
        write(path, samples=2, number=number)
        seal(path, number)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("call", ["write", "fsync", "unlink"])
def test_a_kill_at_any_moment_of_a_drop_loses_no_other_row_and_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before system calls of that name, the first three and some, and behind the last of them."""
    three_numbers(tmp_path / "whole")
    place = 0
    killed = True
    while killed:
        target = shutil.copytree(tmp_path / "whole", tmp_path / str(place))
        calls = 0
        real = getattr(os, call)

        def ending(*args: Any, real: Any = real, place: int = place, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > place:
                raise Killed
            return real(*args, **options)

        with ring_of(target, Keep(seconds=1)) as ring:
            before = ring.used
            with monkeypatch.context() as patch:
                patch.setattr(os, call, ending)
                try:
                    ring.full(OSError(28, "full"))
                    killed = False
                except Killed:
                    pass
        told = read_list(target / "segments.jsonl").dropped is not None
        opened = open_recording(target)
        opened.close()
        assert not opened.missing
        kept = {2, 3} if told else {1, 2, 3}
        assert {segment.number for segment in opened.segments} == kept
        assert not recover(target).failed
        with ring_of(target, Keep(seconds=1)) as ring:
            assert told == (ring.used < before)
        left = {int(path.name[:6]) for path in target.rglob("*.parquet")}
        assert left == kept
        place += 1 if place < 3 else 9
    assert place > 0


def test_what_is_older_than_is_kept_is_dropped_and_nothing_younger(tmp_path: Path) -> None:
    three_numbers(tmp_path)
    (*_, last) = read_list(tmp_path / "segments.jsonl").sealed
    now = last.boottime
    assert now is not None
    with ring_of(tmp_path, Keep(seconds=10), boottime_us=lambda: now + 9_900_000) as ring:
        assert ring.keep_up()
        assert ring.dropped is None
    with ring_of(tmp_path, Keep(seconds=10), boottime_us=lambda: now + 10_100_000) as ring:
        ring.keep_up()
        assert ring.dropped is not None
        assert (ring.dropped.through, ring.dropped.samples, ring.dropped.why) == (3, 6, "keep")


def test_a_number_of_unknown_time_is_dropped_no_sooner_than_the_next(tmp_path: Path) -> None:
    three_numbers(tmp_path)
    now = [100_000_000]
    with ring_of(tmp_path, Keep(seconds=10), boottime_us=lambda: now[0]) as ring:
        for number, last in {1: None, 2: 90_000_000, 3: 95_000_000}.items():
            ring._numbers[number] = replace(ring._numbers[number], boottime=last)
        ring.keep_up()
        assert set(ring._numbers) == {1, 2, 3}
        now[0] += 1_000_000
        ring.keep_up()
        assert set(ring._numbers) == {3}


def test_the_wall_clock_may_be_set_and_nothing_is_dropped_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_numbers(tmp_path)
    (*_, last) = read_list(tmp_path / "segments.jsonl").sealed
    assert last.boottime is not None
    now = last.boottime + 1_000_000
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "time_ns", lambda: 4 * 10**18)
    with ring_of(tmp_path, Keep(seconds=10), boottime_us=lambda: now) as ring:
        assert ring.keep_up()
        assert ring.dropped is None


def test_after_a_reboot_what_is_kept_is_as_old_as_the_boots_have_run_for_certain(
    tmp_path: Path,
) -> None:
    """Number 1 was over 4 s before the end of its boot; 2 and 3 were over in the next."""
    three_numbers(tmp_path)
    now = [1_000_000]
    with ring_of(tmp_path, Keep(seconds=10), boots=(3,), boottime_us=lambda: now[0]) as ring:
        for number, last in {1: 500_000_000, 2: 504_000_000, 3: 900_000}.items():
            ring._numbers[number] = replace(ring._numbers[number], boottime=last)
        for seconds, kept in ((6.0, {1, 2, 3}), (6.1, {2, 3}), (10.1, {3}), (11, set())):
            now[0] = round(seconds * 1e6)
            ring.keep_up()
            assert set(ring._numbers) == kept


def test_the_oldest_goes_as_long_as_too_little_is_free_and_both_ends_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_numbers(tmp_path)
    told: list[str] = []
    free = [50, 50, 200]
    with ring_of(
        tmp_path,
        Keep(min_free=100),
        free=lambda: free.pop(0) if len(free) > 1 else free[0],
        tell=lambda text, event: told.append(text),
    ) as ring:
        assert ring.keep_up()
        assert ring.dropped is not None
        assert ring.dropped.through == 2
        free[:] = [50]
        assert not ring.keep_up()  # with nothing more to drop
        assert ring.dropped.through == 3
        free[:] = [200]
        later = time.monotonic() + 3600
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert ring.keep_up()
    short, again = told
    assert short.startswith("room is short: 50 bytes are free of the 100 to be left")
    assert again.startswith("there is room again")


def test_who_reads_what_is_dropped_meanwhile_is_told_so(tmp_path: Path) -> None:
    three_numbers(tmp_path)
    with analyzer.open(tmp_path) as opened, analyzer.open(tmp_path) as other:
        with ring_of(tmp_path, Keep(seconds=1)) as ring:
            assert ring.full(OSError(28, "full"))
        with pytest.raises(RecordingError, match="were dropped while they were read"):
            opened.engine.table("SELECT sum(rtt_us) FROM sockets")
        with pytest.raises(RecordingError, match="were dropped while they were read"):
            verify(other.engine)
    assert contents(tmp_path)[0] == 0


def test_a_long_list_is_written_anew_without_what_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ring_module, writer_module):
        monkeypatch.setattr(module, "LONG_LIST", 3000)
    target = tmp_path / "r"
    filler = Filler(target, Keep(seconds=1e9))
    listing = target / "segments.jsonl"
    shortened = 0
    for _ in range(20):
        filler.take(10)
        before = listing.stat()
        filler.writer.rotate()
        shortened += listing.stat().st_ino != before.st_ino
        deadline = time.monotonic() + 30
        while not filler.writer._sealer.idle and time.monotonic() < deadline:
            filler.writer.tell(news=False)
            time.sleep(0.005)
        if filler.sample > 5:
            assert filler.writer.ring.full(OSError(28, "full"))
        with pytest.raises(InUseError), contextlib.closing(Directory.open(target)) as directory:
            open_list(directory)
    filler.writer.end("samples")
    assert shortened
    assert listing.stat().st_size < 6_000
    gone = dropped_samples(target)
    assert gone == 15
    assert contents(target) == (0, set(range(gone, 20)))


def test_a_full_disk_drops_the_oldest_and_goes_on(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(mount)], check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        told: list[str] = []
        filler = Filler(mount / "r", Keep(seconds=1e9), lambda text, event: told.append(text))
        for _ in range(60):
            filler.take()
            if filler.writer.size > 500_000:
                filler.writer.rotate()
        filler.writer.end("samples")
        facts = json.loads((mount / "r/recording.json").read_text())
        problems, there = contents(mount / "r")
        gone = dropped_samples(mount / "r")
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
    assert len(told) == 1
    assert "No space left on device: the oldest segments are dropped" in told[0]
    assert told[0] in [one["what"] for one in facts["trouble"]]
    assert gone > 10
    assert (problems, there) == (0, set(range(gone, 60)))
