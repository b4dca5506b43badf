"""Marks made while it is recorded, by `sockrec mark` and SIGUSR1: written at once, and found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import analyzer
from recorder import control
from recorder.control import Control, ControlError, mark
from tests.recorder.support.journals import committed

pytestmark = pytest.mark.live


def sockrec(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sockrec", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@contextlib.contextmanager
def recording(target: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Record until the end of the context; the first sample is there."""
    command = [sys.executable, "-m", "sockrec", "record", "-o", str(target), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recorder:
        deadline = time.monotonic() + 30
        while not committed(target, 1).commits:
            assert recorder.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield recorder
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(60) == 0


def test_marks_are_written_at_once_and_are_times_of_the_recording(tmp_path: Path) -> None:
    target = tmp_path / "r"
    with recording(target, "-i", "30s", "--label", "ticket=SOCK-1") as recorder:
        before = time.time()
        assert sockrec("mark", target, "deployed v2").returncode == 0
        with analyzer.open(target) as opened:  # though the next sample is far away
            (row,) = opened.sql("SELECT * FROM marks")
        assert (row["kind"], row["name"], row["detail"]) == ("mark", "deployed v2", None)
        when = row["t_us"]
        assert isinstance(when, int)
        assert before <= when / 1e6 <= time.time()
        recorder.send_signal(signal.SIGUSR1)
        mark(target, "between")  # which is taken after the signal, and answered then
        mark(target, "rolled back")
        for wrong in ("", "a\nb", "x" * 201):
            with pytest.raises(ControlError, match="a mark is a line of 1 to 200 characters"):
                mark(target, wrong)
    with pytest.raises(ControlError, match="is not being recorded"):
        mark(target, "too late")
    assert control.FACT not in json.loads((target / "recording.json").read_text())
    facts = json.loads(sockrec("info", target, "--format", "json").stdout)
    assert facts["labels"] == {"ticket": "SOCK-1"}
    names = ["deployed v2", "SIGUSR1", "between", "rolled back"]
    assert sorted(one["name"] for one in facts["marks"]) == sorted(names)
    part = sockrec("sql", target, "--from", "mark:deployed v2", "--to", "mark:rolled back",
        "SELECT name FROM marks ORDER BY t_us", "--format", "csv")  # fmt: skip
    # the signal is of the moment at which it was taken, a mark of that at which it was sent
    assert sorted(part.stdout.splitlines()[1:]) == ["SIGUSR1", "between", "deployed v2"]
    report = sockrec("report", "states", target)
    assert report.stderr.count("sockrec: marked: ") == 4
    assert "after the moment asked for" in sockrec("ss", target, "--at", "mark:SIGUSR1").stderr


def test_who_asks_nothing_or_nonsense_keeps_nobody_from_marking() -> None:
    with contextlib.closing(Control()) as heard:
        for word in (b"", b"x", b'{"mark": 7}', b'{"mark": "\\u0007", "time_us": 1}'):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(f"\0{heard.name}")
                if word:
                    client.send(word)
                assert heard.take() == []
                if word:
                    assert json.loads(client.recv(4096))["error"]
        silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(40)]
        for client in silent:
            client.connect(f"\0{heard.name}")
            heard.take()
        assert len(heard.descriptors) < 20
        for client in silent:
            client.close()


def test_a_killed_recorder_is_no_recorder_and_its_directory_can_be_copied(tmp_path: Path) -> None:
    target = tmp_path / "r"
    command = [sys.executable, "-m", "sockrec", "record", "-o", str(target), "-q"]
    with subprocess.Popen(command) as recorder:
        deadline = time.monotonic() + 30
        while not committed(target, 1).commits:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        recorder.kill()
    with pytest.raises(ControlError, match="is not being recorded"):
        mark(target, "x")
    shutil.copytree(target, tmp_path / "copy")


def test_another_user_neither_marks_nor_is_taken_for_the_recorder(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root: becomes another user")
    with contextlib.closing(Control()) as heard:
        program = (
            "import os, socket; os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            f's.connect(\'\\0{heard.name}\'); s.send(b\'{{"mark": "x", "time_us": 1}}\')'
        )
        subprocess.run([sys.executable, "-c", program], check=True)
        assert heard.take() == []
        assert len(heard.descriptors) == 1
