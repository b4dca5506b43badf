"""``sockrec record FILTER``: what is in the recording, what it says of itself, and its errors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import sockrec
from analyzer.sql.summary import lacking
from recorder.ssfilter import parse
from recorder.ssfilter.bytecode import ALL_STATES, bytecode, states_mask
from tests.recorder.support.recorded import read

pytestmark = pytest.mark.live


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sockrec", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Return the port of a listener with one connection, both ends of it ours."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        closing(socket.create_connection(listener.getsockname())),
        closing(listener.accept()[0]),
        closing(socket.create_server(("127.0.0.1", 0))),
    ):
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def recording(server: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("filter") / "r"
    # A connection of the command comes and goes between two samples.
    script = (
        f"import socket, time; s = socket.create_connection(('127.0.0.1', {server})); s.close(); "
        "time.sleep(0.5)"
    )
    words = ["record", "-q", "-i", "300ms", "-o", str(target), f"sport = :{server}"]
    done = run(*words, "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    return target


def test_only_what_the_filter_lets_through_is_recorded(recording: Path, server: int) -> None:
    rows = read(recording, "sockets").to_pylist()
    first = [row for row in rows if row["sample"] == 0 and row["netid"] == "tcp"]
    assert sorted(row["state"] for row in first) == ["ESTAB", "LISTEN"]
    assert {row["pid"] for row in first} == {os.getpid()}
    assert {row["local_port"] for row in rows if row["netid"] == "tcp"} == {server}
    others = [row for row in rows if row["netid"] != "tcp"]
    # In place of the port ss has the inode of others, and so have we.
    assert all(server in (row["local_port"], row["inode"]) for row in others)
    assert {row["local_port"] for row in read(recording, "closes").to_pylist()} <= {server}


def test_the_counts_are_of_what_was_recorded(recording: Path) -> None:
    rows = Counter((row["sample"], row["netns"]) for row in read(recording, "sockets").to_pylist())
    steps = read(recording, "samples").to_pylist()
    tables = {"tcp", "udp", "udp6", "unix", "packet", "netlink", "raw", "raw6", "mptcp", "mptcp6"}
    counted = Counter[tuple[int, int]]()
    for step in steps:
        if step["step"] in tables:
            counted[step["sample"], step["netns"]] += step["rows"] or 0
    assert rows == +counted
    closes = sum(step["rows"] or 0 for step in steps if step["step"] == "closes")
    assert closes == read(recording, "closes").num_rows
    assert {step["opened"] for step in steps} == {None}
    facts = json.loads((recording / "recording.json").read_text())
    assert facts["socket_rows"] == rows.total()


def test_it_says_so_and_what_it_cannot_tell(recording: Path, server: int) -> None:
    facts = json.loads((recording / "recording.json").read_text())
    assert facts["filter"] == f"sport = :{server}"
    told = {one["what"]: one["why"] for one in facts["unseen"]}
    assert told["sockets that the filter leaves out"] == "not asked for"
    with sockrec.open(recording) as opened:
        lacks = lacking(opened.engine)
    assert lacks["listeners"].startswith("it needs every listener")
    asked = run("sql", str(recording), "SELECT 1 AS one")
    assert f"lets through were recorded: sport = :{server}" in asked.stderr
    assert run("info", str(recording)).stdout.count(f"sport = :{server}") == 1
    assert run("verify", str(recording)).returncode == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("process python3 or process pytest and state listening", None),
        (f"pid {os.getpid()}", {os.getpid()}),
        ("state listening", {"LISTEN"}),
    ],
    ids=["a wrong place", "process", "state"],
)
def test_processes_and_states_choose_too(
    text: str, kept: set[Any] | None, server: int, tmp_path: Path
) -> None:
    done = run("record", "-q", "-n", "1", "-o", str(tmp_path / "r"), text)
    if kept is None:
        assert done.returncode == 2
        assert "'state' and its state stand before all other conditions" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "r", "sockets").to_pylist()
    assert {row["pid" if text.startswith("pid") else "state"] for row in rows} == kept
    assert server in {row["local_port"] for row in rows}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unit nginx.service"], "unit is no condition to record by"),
        (["./load-test"], "a command stands behind --"),
        (["-A", "tcp", "src unix:*"], "asks for unix sockets, which it leaves out"),
    ],
)
def test_a_wrong_filter_is_a_wrong_use(words: list[str], said: str, tmp_path: Path) -> None:
    done = run("record", "-o", str(tmp_path / "r"), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("dev lo", b""),
        ("src unix:/x", None),
        ("sport = :70000", None),
        ("sport >= :0", b""),
        ("not src link:ip", None),
        ("process nginx and sport = :80", bytecode(parse("sport = :80"))),
        ("not ( process nginx or sport = :80 )", bytecode(parse("not sport = :80"))),
    ],
)
def test_of_what_has_no_bytecode_the_kernel_is_asked_for_more(
    text: str, code: bytes | None
) -> None:
    assert bytecode(parse(text)) == code


def test_states_are_a_mask_with_those_that_ss_has_no_names_for() -> None:
    assert states_mask(None) == states_mask(parse("state all").states) == ALL_STATES
    assert states_mask(parse("state syn-recv").states) == 1 << 3 | 1 << 12
    assert states_mask(parse("state unconnected state listening").states) == 0b10_0100_1000_0000
