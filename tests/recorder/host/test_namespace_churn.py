"""Namespaces that come and go beside a recording: none is missed, kept alive or leaked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.recorder.support.recorded import read, record
from tests.recorder.support.rows import Row
from tests.workloads.namespaces import COMM, PORT, Truth
from tests.workloads.netns import lacking

pytestmark = [pytest.mark.live, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]

ROOT = Path(__file__).parents[3]
INTERVAL_S = 0.25
COUNT = 20


@dataclass(frozen=True)
class Watched:
    """What came and went, what was recorded of it, and the recorder's descriptors around it."""

    truths: list[Truth]
    namespaces: list[Row]
    sockets: pa.Table
    sample_times: list[int]
    before: dict[str, str]
    after: dict[str, str]

    def rows_of(self, truth: Truth) -> list[Row]:
        """Return a namespace's rows: inode numbers are used again, names and processes are not."""
        return [
            row
            for row in self.namespaces
            if row["netns"] == truth.netns
            and (row["name"] == truth.name if truth.name else row["pid"] == truth.pid)
        ]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    directory = tmp_path_factory.mktemp("namespaces")
    target, truth = directory / "recording", directory / "truth.json"
    options = ("-i", f"{round(INTERVAL_S * 1000)}ms", "--netns", "all", "-A", "tcp,unix")
    with subprocess.Popen(record(target, *options), cwd=ROOT) as recorder:
        try:
            wait_for(lambda: journal_grows(target), recorder)
            before = settled(recorder)
            work = [sys.executable, "-m", "tests.workloads.namespaces", "--truth", str(truth)]
            work += ["--count", str(COUNT), "--rate", "15", "--life", str(8 * INTERVAL_S)]
            subprocess.run(work, cwd=ROOT, check=True, timeout=60)
            truths = [Truth(**one) for one in json.loads(truth.read_text())]
            mine = {f"net:[{one.netns}]" for one in truths}
            wait_for(lambda: not mine & set(descriptors(recorder.pid).values()), recorder)
            after = settled(recorder)
            recorder.send_signal(signal.SIGINT)
            assert recorder.wait(60) == 0
        finally:
            recorder.kill()
    times = sorted({micros(time) for time in read(target, "samples")["sample_time"].to_pylist()})
    rows: list[Row] = read(target, "namespaces").to_pylist()
    return Watched(truths, rows, read(target, "sockets"), times, before, after)


def wait_for(condition: Callable[[], bool], recorder: subprocess.Popen[bytes]) -> None:
    """Wait until a condition holds, at most a minute, as long as the recorder lives."""
    limit = time.monotonic() + 60
    while not condition():
        assert recorder.poll() is None, f"the recorder ended with {recorder.returncode}"
        assert time.monotonic() < limit
        time.sleep(0.05)


def settled(recorder: subprocess.Popen[bytes]) -> dict[str, str]:
    """Return the descriptors that two looks three intervals apart agree about.

    The sockets of a namespace are kept for a sample longer than it, for its last closes.
    """
    looks = [descriptors(recorder.pid)]

    def agree() -> bool:
        time.sleep(3 * INTERVAL_S)
        looks.append(descriptors(recorder.pid))
        return steady(looks[-2]) == steady(looks[-1])

    wait_for(agree, recorder)
    return looks[-1]


def journal_grows(target: Path) -> bool:
    """Tell whether the first sample is written."""
    return any(path.stat().st_size > 4096 for path in target.glob("samples/*.arrows"))


def descriptors(pid: int) -> dict[str, str]:
    """Return what a process has open, without those that come and go with its own work."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found[entry.name] = os.readlink(entry.path)
        except FileNotFoundError:
            continue
    return found


def micros(moment: object) -> int:
    assert isinstance(moment, datetime)
    return round(moment.replace(tzinfo=UTC).timestamp() * 1e6)


def test_every_namespace_that_lived_for_two_samples_is_listed(watched: Watched) -> None:
    assert len(watched.truths) == COUNT
    expected = 0
    for truth in watched.truths:
        inside = [t for t in watched.sample_times if truth.there_us < t < truth.gone_us]
        if len(inside) < 2:
            continue  # the machine was too busy
        expected += 1
        rows = watched.rows_of(truth)
        assert rows != [], truth
        assert {(row["home"], row["entered"]) for row in rows} == {(False, True)}
        # found while a sample was taken, whose time is that of its beginning
        begun = max(t for t in watched.sample_times if t <= truth.born_us)
        assert all(begun <= micros(row["valid_from"]) < inside[1] for row in rows)
    assert expected > COUNT // 2


def test_every_listed_namespace_ends_after_it_was_let_go(watched: Watched) -> None:
    for truth in watched.truths:
        rows = watched.rows_of(truth)
        if not rows:
            continue
        ends = [micros(row["valid_to"]) for row in rows if row["valid_to"] is not None]
        assert ends != [], truth
        # a namespace that goes while a sample is taken ends with it, whose time is its beginning's
        sooner = max(t for t in watched.sample_times if t <= truth.gone_us)
        without = min(t for t in watched.sample_times if t > truth.left_us)
        assert sooner <= max(ends) <= without


def test_sockets_inside_are_recorded_with_their_process(watched: Watched) -> None:
    compared = 0
    for truth in watched.truths:
        rows = watched.sockets.filter(
            (pc.field("netns") == truth.netns) & (pc.field("pid") == (truth.pid or -1))
        ).to_pylist()
        if not truth.sockets or not rows:
            continue
        compared += 1
        ports = {row["local_port"] for row in rows if row["netid"] == "tcp"}
        opened = {PORT + number for number in range(truth.sockets)}
        assert ports <= opened
        # The only sample of a short life may have come while they were being opened.
        assert ports == opened or len({row["sample"] for row in rows}) == 1
        assert {row["comm"] for row in rows} == {COMM}
    assert compared > COUNT // 6


def test_no_descriptor_leaks_and_no_namespace_is_kept_alive(watched: Watched) -> None:
    # namespaces of other tests may have come or gone meanwhile: theirs are counted apart
    mine = {f"net:[{truth.netns}]" for truth in watched.truths}
    assert not mine & set(watched.after.values())
    before, after = steady(watched.before), steady(watched.after)
    assert after == before, set(watched.after.items()) ^ set(watched.before.items())


def steady(found: dict[str, str]) -> tuple[int, int]:
    """Count what stays open for good, and the sockets beyond the two of each namespace.

    Files come and go with the recorder's work.
    """
    links = list(found.values())
    kinds = [link.partition(":")[0] for link in links]
    return kinds.count("anon_inode") + kinds.count("pipe"), kinds.count("socket") - 2 * kinds.count(
        "net"
    )
