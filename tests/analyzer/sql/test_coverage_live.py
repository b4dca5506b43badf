"""The report coverage of real recordings, begun and ended while connections come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analyzer
from tests.recorder.support.recorded import record
from tests.workloads.netns import inode_of, inside, lacking, namespace

pytestmark = [pytest.mark.live, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]

ROOT = Path(__file__).parents[3]
CHURN = str(ROOT / "tests" / "workloads" / "churn.py")

TINY = "2304"
"""Bytes of a buffer that holds a few of the kernel's announcements."""


def passive_opens(pid: int, netns: int) -> int:
    """Return how many connections were accepted in a namespace, once a process has entered it."""
    if os.stat(f"/proc/{pid}/ns/net").st_ino != netns:
        return 0
    lines = Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])


@contextlib.contextmanager
def churning(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Make 2,500 connections a second in a namespace; the first ones are there when this yields."""
    load = subprocess.Popen(
        # longer than any recording beside it
        inside(name, sys.executable, CHURN, "--rate", "2500", "--seconds", "120"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + 60
        while passive_opens(load.pid, inode_of(name)) < 1000:
            assert load.poll() is None, f"the load ended with {load.returncode}"
            assert time.monotonic() < limit, "there were no 1,000 connections within a minute"
            time.sleep(0.02)
        yield load
    finally:
        end(load)


def end(load: subprocess.Popen[bytes]) -> None:
    """Kill the processes of the load; their connections are closed by the kernel."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(load.pid, signal.SIGKILL)
    load.wait(60)


def begin_recording(target: Path, *options: str) -> subprocess.Popen[bytes]:
    command = record(target, "-i", "250ms", *options)
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def finish_recording(recorder: subprocess.Popen[bytes]) -> None:
    _, errors = recorder.communicate(timeout=60)
    assert recorder.returncode == 0, errors.decode()


def make_recording(target: Path, *options: str) -> None:
    finish_recording(begin_recording(target, *options))


def samples(path: Path) -> int:
    """Return how many samples a recording has so far."""
    if not any(path.glob("samples/*")):
        return 0
    with analyzer.open(path) as opened:
        count: int = (
            opened.sql("SELECT count(DISTINCT sample) AS n FROM samples").table()[0][0].as_py()
        )
    return count


def coverage(path: Path, netns: int | None) -> dict[str, Any]:
    """Return the row of a namespace, or that of the whole recording."""
    with analyzer.open(path) as opened:
        rows = opened.report("coverage", top=0).table().to_pylist()
    return next(row for row in rows if row["netns"] == netns)


@pytest.mark.parametrize("ends", ["while it runs", "after it"])
def test_nothing_is_missed_when_recording_begins_during_the_load(ends: str, tmp_path: Path) -> None:
    with namespace() as name:
        with churning(name) as load:
            recorder = begin_recording(tmp_path / "r", "--netns", name, "-n", "10")
            while ends == "after it" and samples(tmp_path / "r") < 4 and recorder.poll() is None:
                time.sleep(0.02)
            if ends == "after it":
                end(load)
            finish_recording(recorder)
            assert (load.poll() is None) == (ends == "while it runs")
        found = coverage(tmp_path / "r", inode_of(name))
    assert found["lost"] == 0
    assert found["kernel"] > 1000
    assert abs(found["kernel"] - found["seen"]) <= found["margin"] < found["kernel"]
    assert (found["says"], found["share_percent"]) == ("saw 100.0 % of connections", 100)
    # Home is not recorded, and spoils nothing.
    whole = coverage(tmp_path / "r", None)
    names = ("says", "seen", "kernel", "margin", "share_percent")
    assert [whole[name] for name in names] == [found[name] for name in names]


def test_what_was_lost_shows_as_lost(tmp_path: Path) -> None:
    with namespace() as name:
        with churning(name):
            make_recording(tmp_path / "r", "--netns", name, "-n", "10", "--closes-buffer", TINY)
        found = coverage(tmp_path / "r", inode_of(name))
    missed = found["kernel"] - found["seen"]
    assert found["lost"] > 0
    assert missed > found["margin"]
    assert missed - found["margin"] <= found["lost"]
    share = found["share_percent"]
    assert share == int(10_000 * found["seen"] / found["kernel"]) / 100 < 100
    says = f"saw {share} % of connections, {found['lost']} announcements lost"
    assert found["says"] == says


def test_a_namespace_where_nothing_happens_leaves_the_others_their_margin(tmp_path: Path) -> None:
    with namespace() as idle, namespace() as name:
        with churning(name):
            make_recording(tmp_path / "r", "--netns", name, "--netns", idle, "-n", "8")
        rows = [coverage(tmp_path / "r", netns) for netns in (inode_of(idle), inode_of(name), None)]
    assert (rows[0]["says"], rows[0]["margin"]) == ("no connections", 0)
    assert rows[2]["margin"] == rows[1]["margin"] > 0
    assert {row["says"] for row in rows[1:]} == {"saw 100.0 % of connections"}
