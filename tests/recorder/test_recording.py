"""The command `sockrec record`: schedule, ends, signals, the command it runs, and kill -9."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recorder.host.facts import current_netns
from recorder.pace import Schedule
from recorder.schema import TABLES
from recorder.store.directory import Directory, open_list
from recorder.store.sealer import Sealer
from tests.recorder.support.journals import (
    committed,
    is_sealed,
    journal_path,
    numbers,
    segment_path,
    write,
)
from tests.workloads.netns import unmount


def sockrec(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sockrec", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sockrec", *map(str, args)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_samples(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(committed(directory, 1).commits) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} samples in {directory}")


def samples_of(directory: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(directory / "samples").to_pylist()
    return sorted(rows, key=lambda row: (row["sample"], row["t0"]))


def facts(directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((directory / "recording.json").read_text())
    return result


def test_samples_are_due_at_multiples_of_the_interval_and_left_out_ones_are_counted() -> None:
    schedule = Schedule(2.0, start=100.0)
    assert schedule.next_due(100.0) == (100.0, 0)
    assert schedule.next_due(100.5) == (102.0, 0)
    assert schedule.next_due(103.9) == (104.0, 0)  # the one at 104 is not late yet
    assert schedule.next_due(107.0) == (106.0, 0)  # late, and taken
    assert schedule.next_due(113.0) == (112.0, 2)  # 108 and 110 were due and are lost
    assert schedule.next_due(113.1) == (114.0, 0)


def test_a_recording_ends_after_its_samples_and_is_sealed(tmp_path: Path) -> None:
    target = tmp_path / "r"
    result = sockrec("record", "-o", target, "-n", 3, "-i", "100ms")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    told, then = result.stderr.splitlines()
    assert told.startswith("3 samples")
    assert then == f"next: sockrec summary {target}"
    assert facts(target)["exit"] == "samples"
    assert facts(target)["ended"] is not None
    assert not list(target.rglob("*.arrows"))
    rows = samples_of(target)
    steps = ["namespaces", "counters", "tcp", "udp", "udp6", "unix", "owners", "closes"]
    for number in range(3):
        order = [row["step"] for row in rows if row["sample"] == number]
        places = [order.index(step) for step in steps]
        assert places == sorted(places)
        assert order[-1] == "counters_after"
    assert {row["outcome"] for row in rows if row["step"] in steps} <= {
        *("ok", "partial", "skipped_empty"),
    }
    for row in rows:
        assert row["sample_time"] <= row["t0"] <= row["t1"]
    times = sorted({row["sample_time"] for row in rows})
    gaps = [(later - sooner).total_seconds() for sooner, later in itertools.pairwise(times)]
    assert min(gaps) > 0


def test_the_directory_and_its_files_are_their_owners_only(tmp_path: Path) -> None:
    target = tmp_path / "r"
    sockrec("record", "-q", "-o", target, "-n", 1)
    for path in [target, *target.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    result = sockrec("record", "-o", tmp_path, "-n", 1)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize(
    "args",
    [
        ["-i", "fast"],
        ["-i", "0s"],
        ["-i", "1ms"],
        ["-d", "5 parsecs"],
        ["-n", "0"],
        ["-A", "tcp,pigeon"],
        ["-A", "!all"],
        ["--netns", "no-such-namespace"],
        ["--netns", "4194305"],
        ["--closes-buffer", "0"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_is_exit_status_2_and_makes_nothing(tmp_path: Path, args: list[str]) -> None:
    result = sockrec("record", "-o", tmp_path / "r", *args)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_recording_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "r"
    with start("record", "-o", target, "-i", "100ms") as process:
        wait_for_samples(target, 2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    told, following = errors.splitlines()
    assert " samples" in told
    assert following == f"next: sockrec summary {target}"
    assert facts(target)["exit"] == "signal"
    assert not list(target.rglob("*.arrows"))
    assert len(samples_of(target)) >= 2 * 5


def test_the_exit_status_of_the_command_is_passed_on(tmp_path: Path) -> None:
    result = sockrec("record", "-o", tmp_path / "a", "--", "sh", "-c", "sleep 0.3; exit 7")
    assert result.returncode == 7
    assert facts(tmp_path / "a")["exit"] == "command"
    assert facts(tmp_path / "a")["command"] == ["sh", "-c", "sleep 0.3; exit 7"]
    killed = sockrec("record", "-q", "-o", tmp_path / "b", "--", "sh", "-c", "kill -9 $$")
    assert killed.returncode == 128 + 9


def test_a_command_that_does_not_exist_is_told_before_anything_is_made(tmp_path: Path) -> None:
    result = sockrec("record", "-o", tmp_path / "r", "--", "no-such-command")
    assert result.returncode == 127
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "mode", "status"),
    [
        ("exit 3", 0o644, 126),
        ("\x7fELF", 0o755, 126),
        ("#!/nonexistent/interpreter", 0o755, 127),
        ("#!/bin/sh\nexit 3", 0o755, 3),
    ],
)
def test_a_command_that_cannot_be_run_gives_the_status_of_a_shell(
    tmp_path: Path, text: str, mode: int, status: int
) -> None:
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(mode)
    result = sockrec("record", "-q", "-o", tmp_path / "r", "--", program)
    assert result.returncode == status
    assert (f"sockrec: {program}: cannot be run" in result.stderr) == (status > 100)
    assert result.stderr.count("\n") == (status > 100)


def test_signals_are_forwarded_to_the_command_and_its_end_ends_the_recording(
    tmp_path: Path,
) -> None:
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    target = tmp_path / "r"
    with start("record", "-q", "-o", target, "-i", "100ms", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert output == "caught\n"
    assert process.returncode == 5
    assert facts(target)["exit"] == "command"


def test_the_command_runs_with_the_signals_it_would_have_without_us(tmp_path: Path) -> None:
    show = "grep -E '^(SigBlk|SigIgn)' /proc/self/status"
    result = sockrec("record", "-q", "-o", tmp_path / "r", "--", "sh", "-c", show)
    masks = dict(line.split(":\t") for line in result.stdout.splitlines())
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) & 1 << signal.SIGPIPE - 1 == 0


def test_the_sockets_of_the_command_are_seen_with_their_owner(tmp_path: Path) -> None:
    target = tmp_path / "r"
    script = (
        "import os, socket, time; s = socket.create_server(('127.0.0.1', 0), backlog=3);"
        "c = socket.create_connection(s.getsockname())\n"
        f"committed = {str(target / 'samples' / '000001.arrows')!r}\n"
        "for _ in range(4):\n"  # a whole sample falls between the changes of its size
        "    size = os.stat(committed).st_size; end = time.monotonic() + 60\n"
        "    while os.stat(committed).st_size == size and time.monotonic() < end: time.sleep(.02)\n"
    )
    sockrec("record", "-q", "-i", "200ms", "-o", target, "--", sys.executable, "-c", script)
    rows = pq.read_table(target / "sockets").to_pylist()
    owners = pq.read_table(target / "owners").to_pylist()
    mine = {
        row["pid"] for row in owners if script in row["cmdline"] and "record" not in row["cmdline"]
    }
    assert len(mine) == 1
    held = [row for row in rows if row["pid"] in mine and row["netid"] == "tcp"]
    # in other samples the command may be about to begin or to end
    samples = [[row for row in held if row["sample"] == n] for n in {r["sample"] for r in held}]
    most = max(samples, key=len)
    states = sorted((row["owner_by"], row["state"]) for row in most)
    assert states == [("fd", "ESTAB"), ("fd", "LISTEN"), ("listener", "ESTAB")]
    listener = next(row for row in most if row["state"] == "LISTEN")
    assert (listener["recv_q"], listener["send_q"], listener["holders"]) == (1, 3, 1)
    ended = [row for row in owners if row["pid"] in mine and row["valid_to"] is not None]
    assert len(ended) <= 1


def test_no_owners_and_chosen_tables_are_told_as_unseen(tmp_path: Path) -> None:
    target = tmp_path / "r"
    some = ["-A", "udp,tcp", "--no-owners", "--no-closes", "--no-network", "--netns", "current"]
    sockrec("record", "-q", "-n", 1, *some, "-o", target)
    others = {"namespaces", "counters", "counters_after", "network"}
    steps = {row["step"] for row in samples_of(target)} - others
    assert steps == {"tcp", "udp", "udp6"}
    unseen = {item["what"] for item in facts(target)["unseen"]}
    left_out = {"owners", "unix sockets", "closes", "the network beneath"}
    assert left_out | {"other network namespaces"} <= unseen


def test_an_unprivileged_recorder_says_what_it_could_not_see(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to run without capabilities")
    target = tmp_path / "r"
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1)
        command = [sys.executable, "-m", "sockrec", "record", "-n", "2", "-i", "100ms", "-o"]
        result = subprocess.run(
            [*powerless, *command, str(target)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        told = facts(target)
        what = " ".join(item["what"] for item in told["unseen"])
        assert "mark" in what
        assert "owners of other users' sockets" in what
        rows = pq.read_table(target / "sockets").to_pylist()
        mine = [row for row in rows if row["inode"] == os.fstat(held.fileno()).st_ino]
        assert len(mine) == 2
        assert {row["pid"] for row in mine} == {None}
        assert {row["mark"] for row in mine} == {None}
        owners = [row for row in samples_of(target) if row["step"] == "owners"]
        assert {row["outcome"] for row in owners} == {"partial"}
        assert min(row["denied"] for row in owners) > 0


def on_terminal(script: str, tmp_path: Path, until: str) -> str:
    """Run a shell's script on a terminal that controls it; return what is shown up to a text."""
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 120))
    with subprocess.Popen(
        ["bash", "-mc", script, "bash", sys.executable, str(tmp_path / "r")],
        stdin=side,
        stdout=side,
        stderr=side,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(side)
        shown = ""
        with contextlib.suppress(OSError):  # nobody has it open any more
            while until not in shown:
                shown += os.read(main, 65536).decode()
        process.wait(timeout=30)
    os.close(main)
    assert until in shown
    return shown


def test_a_terminal_shows_a_status_line_that_goes_and_then_what_to_do_next(tmp_path: Path) -> None:
    script = '"$1" -m sockrec record -n 3 -i 200ms -o "$2"; echo done'
    shown = on_terminal(script, tmp_path, "done")
    drawn, last = shown.rsplit("\r\x1b[K", 1)
    first, second, *_ = drawn.split("\r\x1b[K")[1:]
    assert re.match(r" +0 s  1 sample  [\d,]+ sockets?  ", first)
    assert "CPU" not in first  # nothing to measure it by
    found = re.search(r"2 samples .* ([\d.]+)% CPU", second)
    assert found is not None
    assert float(found[1]) <= 100 * (os.cpu_count() or 1)
    assert re.fullmatch(
        r"3 samples(?: \([^)]*\))?, [^\n]+\r\nnext: sockrec summary [^\n]+/r\r\ndone\r\n", last
    )


@pytest.mark.parametrize(
    "script",
    [
        # what a command prints goes to the same terminal
        '"$1" -m sockrec record -i 100ms -o "$2" -- sh -c "echo begun; sleep 1; echo ended"',
        # a prompt stands on it
        '"$1" -m sockrec record -n 5 -i 100ms -o "$2" & sleep 0; echo ended; wait',
    ],
    ids=["command", "background"],
)
def test_no_status_line_is_drawn_over_the_output_of_others(tmp_path: Path, script: str) -> None:
    shown = on_terminal(script, tmp_path, "next: ")
    assert "ended\r\n" in shown
    assert "\x1b" not in shown


def test_a_pipe_is_shown_no_status_line(tmp_path: Path) -> None:
    result = sockrec("record", "-n", "1", "-o", tmp_path / "r r")
    assert "\x1b" not in result.stderr
    assert result.stderr.startswith("1 sample, ")
    assert result.stderr.endswith(f"next: sockrec summary '{tmp_path / 'r r'}'\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 480 kB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=480k", "none", str(mount)], check=False
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield mount
    finally:
        unmount(mount)


def test_a_full_disk_is_one_clear_line_and_what_was_committed_is_kept(small_disk: Path) -> None:
    target = small_disk / "r"
    result = sockrec("record", "-o", target, "-i", "50ms", "-d", "20s")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    told = re.search(r"No space left on device; the (\d+) samples before are whole", result.stderr)
    assert told, result.stderr
    assert set(read_all(target, "samples")) == set(range(int(told[1])))
    assert facts(target)["exit"] == "error: No space left on device"
    assert facts(target)["ended"] is not None
    assert not list(target.rglob("*.tmp"))


def test_a_disk_that_is_full_for_the_segment_keeps_the_journals_and_says_so(
    small_disk: Path,
) -> None:
    target = small_disk / "r"
    with start("record", "-o", target, "-i", "20ms") as process:
        wait_for_samples(target, 2)
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
            while True:
                fill.write(bytes(4096))
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No space left" in errors
    count = len(committed(target, 1).commits)
    assert count >= 2
    assert facts(target)["ended"] is not None
    assert "not sealed" in facts(target)["trouble"][-1]["what"]
    assert not list(target.rglob("*.tmp"))
    (small_disk / "fill").unlink()
    assert sockrec("recover", target).returncode == 0
    assert set(read_all(target, "samples")) == set(range(count))


@pytest.mark.parametrize("sync", ["segment", "sample"])
def test_what_is_synced_can_be_chosen(tmp_path: Path, sync: str) -> None:
    target = tmp_path / "r"
    result = sockrec("record", "-q", "-n", 2, "-i", "50ms", "--sync", sync, "-o", target)
    assert result.returncode == 0, result.stderr
    assert set(read_all(target, "samples")) == {0, 1}


def test_with_sync_sample_every_journal_written_is_synced_before_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fdatasync

    def noting(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).parent.name)
        real(file)

    monkeypatch.setattr(os, "fdatasync", noting)
    write(tmp_path, samples=2, sync=True)
    assert synced == 2 * ["sockets", "samples", "owners", "samples"]


@pytest.mark.parametrize("group", range(5))
def test_kill_9_at_random_moments_loses_no_completed_sample(tmp_path: Path, group: int) -> None:
    """50 moments in all; some fall into a rotation, as segments here are tiny."""
    chance = random.Random(group)
    home = current_netns()
    program = (
        "import sys; from pathlib import Path; from recorder.recording import *;"
        "from recorder.signals import Signals; signals = Signals().__enter__();"
        "Recording(Options(Path(sys.argv[1]), interval=0.02, seal_rows=60), signals,"
        "lambda p: print(p.samples, flush=True)).run()"
    )
    for moment in range(10):
        target = tmp_path / str(moment)
        with subprocess.Popen(
            [sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
            told = process.stdout.read().split()
        wait_for_sealer(target)
        complete = int(told[-1]) if told else 1
        numbers = read_all(target, "samples")
        # the sample in flight may have been committed before its end was told
        assert len(set(numbers)) in (complete, complete + 1)
        assert sorted(set(numbers)) == list(range(len(set(numbers))))
        steps = [(r["sample"], r["netns"], r["step"]) for r in read_rows(target, "samples")]
        assert len(set(steps)) == len(steps), "a step is there twice"
        for number in set(numbers):
            assert {(number, home, step) for step in ("tcp", "unix")} <= set(steps)
        sockets = read_all(target, "sockets")
        assert set(sockets) <= set(numbers)
        assert set(numbers) == set(sockets)


def wait_for_sealer(target: Path) -> None:
    """Let the sealing child, which outlives its parent, end what it had begun."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(str(target) in command for command in _commands()):
            return
        time.sleep(0.05)
    raise AssertionError("the sealing child does not end")


def _commands() -> list[str]:
    return [_command(path.name) for path in Path("/proc").glob("[0-9]*")]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def read_all(directory: Path, table: str) -> list[int]:
    """Return the sample number of every row."""
    return [row["sample"] for row in read_rows(directory, table)]


def read_rows(directory: Path, table: str) -> list[dict[str, Any]]:
    """Return the rows by the rules of docs/recording.md, their identities only."""
    names = [name for name in ("sample", "netns", "step") if name in TABLES[table].names]
    rows: list[dict[str, Any]] = []
    left = set(numbers(directory))
    sealed = {int(path.stem) for path in (directory / "samples").glob("*.parquet")}
    for number in sorted(left | sealed):
        path = segment_path(directory, table, number)
        if number in sealed:
            if path.exists():
                rows += pq.read_table(path, columns=names).to_pylist()
            continue
        ranges = committed(directory, number).ranges(table)
        if ranges:
            data = journal_path(directory, table, number).read_bytes()[: ranges[-1][1]]
            with pa.ipc.open_stream(data) as reader:
                rows += reader.read_all().select(names).to_pylist()
    return rows


def test_recover_seals_what_a_killed_recorder_left(tmp_path: Path) -> None:
    target = tmp_path / "r"
    with start("record", "-o", target, "-i", "50ms") as process:
        wait_for_samples(target, 3)
        process.kill()
        process.wait(60)
    wait_for_sealer(target)
    before = {table: read_all(target, table) for table in TABLES}
    assert numbers(target) == [1]
    result = sockrec("recover", target)
    assert result.returncode == 0, result.stderr
    assert numbers(target) == []
    for table in TABLES:
        assert sorted(read_all(target, table)) == sorted(before[table])


def test_recover_refuses_what_is_no_recording(tmp_path: Path) -> None:
    result = sockrec("recover", tmp_path)
    assert result.returncode == 1
    assert "not a recording" in result.stderr


def test_a_sealing_child_that_is_killed_is_replaced_and_its_segment_sealed_by_the_next(
    tmp_path: Path,
) -> None:
    write(tmp_path, samples=2, number=1)
    write(tmp_path, samples=2, number=2)
    directory = Directory.open(tmp_path)
    listing = open_list(directory)
    sealer = Sealer(directory, listing)
    first = sealing_child(tmp_path)
    os.kill(first, signal.SIGSTOP)
    sealer.seal(1)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    sealer.seal(2)
    sealer.finish()
    assert sealer.events == ["the sealing process was killed by signal 9"]
    assert sealer.failures == {}
    assert is_sealed(tmp_path, 1)
    assert is_sealed(tmp_path, 2)
    os.close(listing)
    directory.close()


def sealing_child(target: Path) -> int:
    """Wait until a sealing child of a recording runs; return its number."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pids = [path.name for path in Path("/proc").glob("[0-9]*")]
        found = next((int(pid) for pid in pids if f"{target}" in _command(pid)), 0)
        if found:
            return found
    raise AssertionError("no sealing child starts")
