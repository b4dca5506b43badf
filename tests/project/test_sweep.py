"""Whatever stands where a recording is to be: each command ends in one line, at once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sockrec

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "info": ("info", "{}"),
    "verify": ("verify", "{}"),
    "summary": ("summary", "{}"),
    "report": ("report", "states", "{}"),
    "sql": ("sql", "{}", "SELECT count(*) FROM sockets"),
    "bundle": ("bundle", "{}", "-o", "made.zip"),
    "cut": ("cut", "{}", "-o", "made"),
    "export": ("export", "{}", "--format", "csv", "-o", "made.csv"),
    "ss": ("ss", "{}", "-tan"),
    "diff": ("diff", "{}"),
    "recover": ("recover", "{}"),
    "record": ("record", "-n", "1", "--nice", "0", "-o", "{}"),  # as it is this process
}
PLACES = ("r", "r.zip", "r.parquet", "r/recording.json", "r/sockets/000001.parquet")
"""Where a thing stands: what is named, or something in it."""


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("not a recording")


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_empty(path: Path) -> None:
    path.touch()


def make_socket(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


THINGS = {
    "fifo": make_fifo,
    "device": make_device,
    "directory": make_directory,
    "huge": make_huge,
    "empty": make_empty,
    "socket": make_socket,
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.timeout(60)
def test_a_thing_that_is_no_recording_is_told_in_one_line(
    command: str, thing: str, tmp_path: Path
) -> None:
    for name in PLACES if command != "record" else PLACES[:1]:
        folder = tmp_path / name.replace("/", "_")
        path = folder / name
        path.parent.mkdir(parents=True)
        THINGS[thing](path)
        named = folder / Path(name).parts[0]
        words = [word.format(named) for word in COMMANDS[command]]
        done = CliRunner().invoke(sockrec.app, words)
        assert done.exit_code in (1, 2), (name, done.output)
        error = done.exception
        if error is not None and not isinstance(error, SystemExit):
            assert isinstance(error, sockrec.SockrecError | OSError), (name, error)
            said = sockrec._said(error)
        else:
            said = done.stderr.strip().splitlines()[-1]
        assert said, name
        assert "\n" not in said
        assert "Errno" not in said
        assert str(named) in said, (name, said)


@pytest.mark.parametrize("thing", ["fifo", "huge"])
def test_the_command_itself_ends_at_once(thing: str, tmp_path: Path) -> None:
    THINGS[thing](tmp_path / "r")
    done = subprocess.run(
        [sys.executable, "-m", "sockrec", "info", str(tmp_path / "r")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("sockrec: ")
