"""The unit for systemd, what it is told by datagrams, and when its watchdog is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recorder.notify import Notify
from recorder.service import ServiceError, unit
from tests.recorder.test_marks_live import recording
from tests.workloads.netns import namespace


def test_systemd_has_nothing_against_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    program = tmp_path / "a b" / "sockrec"
    program.parent.mkdir()
    program.touch(mode=0o755)
    text = unit(program, ["-i", "500ms", "--label", 'why=50% "$x"'])
    (place := tmp_path / "sockrec.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == done.stdout == ""
    assert done.returncode == 0
    assert '--label "why=50%% \\"$$x\\""' in text


def allowed(words: list[str]) -> set[str]:
    """Return the system calls of a filter of systemd, its sets by what they have."""
    names: set[str] = set()
    for word in words:
        if not word.startswith("@"):
            names.add(word)
            continue
        told = run(["systemd-analyze", "syscall-filter", word]).stdout
        listed = [line.strip() for line in told.splitlines()[1:]]
        names |= allowed([line for line in listed if line and not line.startswith("#")])
    return names


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.live
@pytest.mark.parametrize("withheld", [None, "setns"])
def test_no_system_call_is_refused_by_the_unit_nor_a_capability_missed(
    withheld: str | None, tmp_path: Path
) -> None:
    """All that it does, watched by strace, is in the filter; and one that is not is seen."""
    absent = [name for name in ("strace", "setpriv", "systemd-analyze") if not shutil.which(name)]
    if absent or os.geteuid() != 0:
        pytest.skip(f"needs root, {', '.join(absent) or 'and no more'}")
    text = unit(Path(sys.executable), [])
    (calls,) = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
    (capabilities,) = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    names = allowed(calls.split()) - {withheld}
    bounding = ["-all", *("+" + name.removeprefix("CAP_").lower() for name in capabilities.split())]
    seen = tmp_path / "seen"
    with namespace():  # so that there is one to enter
        run(
            [
                *("setpriv", "--no-new-privs", "--bounding-set", ",".join(bounding), "--"),
                *("strace", "-f", "-qq", "-o", str(seen), "-e", "signal=none"),
                *("-e", "trace=!" + ",".join(f"?{name}" for name in sorted(names))),
                *(sys.executable, "-m", "sockrec", "record", "--append", str(tmp_path / "r")),
                *("-i", "200ms", "-d", "4s", "--keep-size", "16M", "--min-free", "1M", "--log"),
                *("--on", "sockets >= 0", "--pre", "1s", "--post", "1s", "--exec", "/bin/true"),
                *("--conntrack", "--max-cpu", "90%", "--heartbeat", "1s"),
            ]
        )
    refused = {line.split()[1].split("(")[0] for line in seen.read_text().splitlines()}
    assert refused == ({withheld} if withheld else set())
    assert list((tmp_path / "incidents").iterdir())
    unseen = json.loads((tmp_path / "r" / "recording.json").read_text())["unseen"]
    assert [one for one in unseen if "CAP_" in one["why"]] == []


def test_a_line_break_gets_into_no_unit() -> None:
    with pytest.raises(ServiceError, match="a unit cannot have"):
        unit(Path("/usr/bin/sockrec"), ["a\nExecStartPre=/bin/true"])


@pytest.mark.live
def test_systemd_is_told_that_it_is_ready_alive_and_that_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        with recording(tmp_path / "r", "-i", "30s"):
            told = [heard.recv(4096).decode() for _ in range(6)]
        while told[-1] != "STOPPING=1":
            told.append(heard.recv(4096).decode())
    assert any(one.startswith("READY=1\nSTATUS=recording to ") for one in told)
    assert told.count("WATCHDOG=1") >= 4  # though samples are 30 s apart


def test_a_command_that_is_started_does_not_speak_in_our_name(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "A": "b"}
    Notify(environment).alive()
    assert environment == {"A": "b"}


def test_a_job_whose_sigint_is_ignored_says_how_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sockrec", "record", "-n", "1", "-o", str(tmp_path / "r")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    first, *_ = done.stderr.splitlines()
    assert "SIGINT is ignored here: end it by SIGTERM (kill " in first
    assert os.path.basename(tmp_path / "r") in first


def test_that_a_command_outlives_the_recording_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sockrec", "record", "-n", "1", "-o", str(tmp_path / "r")]
    done = subprocess.run(
        [*command, "--", "sleep", "1"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "recording has ended, sleep has not: waiting for it" in done.stderr
