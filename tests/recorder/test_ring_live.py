"""`sockrec record --keep`: what is kept can be read without what was dropped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import analyzer
from analyzer.sql.verify import verify
from recorder.format.segments import read_list
from recorder.host.facts import current_netns

pytestmark = pytest.mark.live


def sockrec(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sockrec", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_later_rows_need_outlives_the_segments_that_told_it_first(tmp_path: Path) -> None:
    """The listener, its process, the settings and the namespace are there from the first sample."""
    target = tmp_path / "r"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = sockrec("record", "-i", "100ms", "-d", "6s", "--keep", "1s", "-o", target)
    assert done.returncode == 0, done.stderr
    dropped = read_list(target / "segments.jsonl").dropped
    assert dropped is not None
    assert dropped.samples
    here = current_netns()
    with analyzer.open(target) as opened:
        assert verify(opened.engine).whole

        def rows(query: str) -> list[dict[str, object]]:
            found: list[dict[str, object]] = opened.engine.table(query).to_pylist()
            return found

        (first,) = rows("SELECT min(sample) AS sample FROM samples")
        assert first["sample"] == dropped.samples
        assert rows(f"SELECT DISTINCT pid FROM sockets WHERE local_port = {port}") == [
            {"pid": os.getpid()}
        ]
        owners = rows(f"SELECT DISTINCT comm, valid_from FROM owners WHERE pid = {os.getpid()}")
        assert len(owners) == 1
        names = {row["name"] for row in rows(f"SELECT name FROM settings WHERE netns = {here}")}
        assert "net.core.somaxconn" in names
        assert rows(f"SELECT DISTINCT home FROM namespaces WHERE netns = {here}") == [
            {"home": True}
        ]
        used = rows(
            "SELECT count(*) AS n FROM (SELECT DISTINCT cgroup_id FROM sockets WHERE cgroup_id > 0)"
            " ANTI JOIN cgroups USING (cgroup_id)"
        )
        assert used == [{"n": 0}]
    told = sockrec("info", "--format", "json", target)
    assert json.loads(told.stdout)["dropped"]["samples"] == dropped.samples
    assert "were dropped by plan (keep)" in told.stderr
    for made in ("compact", "cut"):
        assert sockrec(made, target, "-o", tmp_path / made).returncode == 0
        assert sockrec("verify", tmp_path / made).stdout.startswith("whole")
    summary = sockrec("summary", target)
    assert summary.returncode == 0, summary.stderr
    assert "missing" not in summary.stderr
    assert "were dropped by plan (keep)" in summary.stderr


def test_without_room_no_sample_is_taken_but_the_last_and_that_is_told(tmp_path: Path) -> None:
    target = tmp_path / "r"
    done = sockrec("record", "-i", "100ms", "-d", "1s", "--min-free", "900000T", "-o", target)
    assert done.returncode == 0, done.stderr
    short, nothing, ended, _ = done.stderr.splitlines()
    assert short.startswith(f"sockrec: {target}: room is short: ")
    assert nothing.startswith(f"sockrec: {target}: nothing is left to drop: no sample is taken")
    assert ended.startswith("1 sample (")
    facts = json.loads((target / "recording.json").read_text())
    assert facts["skipped"] >= 9
    assert facts["keep"] == {"seconds": None, "bytes": None, "min_free": 900000 << 40}
    assert "room is short" in facts["trouble"][0]["what"]


def test_a_bound_that_is_none_is_refused_in_a_line(tmp_path: Path) -> None:
    for option, value in [("--keep-size", "1M"), ("--keep-size", "2"), ("--min-free", "x")]:
        done = sockrec("record", option, value, "-o", tmp_path / "r")
        assert done.returncode == 2
        assert f"'{value}' is not a size as 500M or 2G" in done.stderr
        assert not (tmp_path / "r").exists()
