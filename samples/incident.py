"""Records one incident: real processes, alone in namespaces of their own, and what they know of it.

``python samples/NAME.py`` makes samples/NAME/recording and samples/NAME/truth.json. It needs root,
``unshare`` and ``mount`` of util-linux, and ``ip`` of iproute2. Network, host name, processes and
mounts are private, so nothing of this machine but its kernel gets into the recording, and nothing
is left when the first process of the namespaces ends, however that happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from samples.stage import Facts, Process, Role, Stage, StageError, start

ROOT = Path(__file__).resolve().parents[1]
HOST = "web1"
ADDRESS = "10.0.0.11"
"""Of the host; not a loopback one, for which the kernel reuses ports in TIME-WAIT."""

DESCRIPTORS = (1024, 4096)
"""Limits of every process, soft and hard."""

HEALTHY = 6.0
"""Seconds of every recording in which nothing is wrong."""

_STEP = "SOCKREC_SAMPLE_STEP"
_INTO = "SOCKREC_SAMPLE_INTO"
_UNSHARE = "unshare --net --uts --ipc --cgroup --pid --fork --kill-child --mount-proc".split()
_BIN = Path("/usr/local/bin")
_SOCKREC = "#!/usr/local/bin/python3\nimport sys\nfrom sockrec import main\nsys.exit(main())\n"
_RECORDER_SECONDS = 60.0
_END_SECONDS = 10.0

_SYSCTLS = {
    "net.ipv4.tcp_rmem": "4096 131072 6291456",
    "net.ipv4.tcp_wmem": "4096 16384 4194304",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv4.ip_local_port_range": "32768 60999",
}
"""What a machine may have set otherwise, and what shapes an incident."""


@dataclass(frozen=True)
class Incident:
    """What goes wrong on the host, who makes it so, and how long it is recorded.

    ``processes`` are started in their order; ``numbers`` makes the truth of their facts.
    """

    name: str
    story: str
    finding: str | None
    comm: str | None
    subject: str | None
    seconds: float
    processes: Mapping[str, Role]
    numbers: Callable[[Mapping[str, Facts], Stage], Facts]
    interval: str = "1s"
    sysctls: Mapping[str, str] = field(default_factory=dict)


def main(incident: Incident) -> int:
    """Record the incident; this is what its script does in each step of its start."""
    try:
        match os.environ.get(_STEP):
            case None:
                return record(incident)
            case "enter":
                enter(f"samples/{incident.name}.py")
            case _:
                return play(incident, scratch())
    except KeyboardInterrupt:
        return 130


# Outside: as whoever asks for the sample.


def record(incident: Incident) -> int:
    """Make samples/NAME anew and say so on one line; return an exit status."""
    place = ROOT / "samples" / incident.name
    if lack := lacking():
        print(f"{incident.name}: {lack}", file=sys.stderr)
        return 1
    show = sys.stdout.isatty()
    if show:
        print(f"{incident.name}: {incident.seconds:.0f} s ...", end="", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix=f".{incident.name}-", dir=ROOT / "samples") as into:
        try:
            status = in_namespaces(incident, Path(into))
        except KeyboardInterrupt:
            print("\n" * show + f"{incident.name}: stopped", file=sys.stderr)
            return 130
        if status != 0:
            print("\n" * show + f"{incident.name}: failed with status {status}", file=sys.stderr)
            return 1
        replace(place, Path(into))
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    print("\r" * show + f"{incident.name}: {incident.seconds:.0f} s, {size / 1000:.0f} kB")
    return 0


def lacking() -> str | None:
    """Say what this machine lacks for the namespaces, None if nothing."""
    if os.geteuid() != 0:
        return "needs root, for namespaces of its own"
    absent = [name for name in ("unshare", "mount", "umount", "ip") if shutil.which(name) is None]
    return f"needs the commands {', '.join(absent)}" if absent else None


def in_namespaces(incident: Incident, into: Path) -> int:
    """Run the script again in namespaces of its own; return its exit status.

    When this returns, by an exception too, nothing runs in them any more: with their first process
    the kernel ends all others.
    """
    process = subprocess.Popen(
        [*_UNSHARE, sys.executable, f"samples/{incident.name}.py"],
        cwd=ROOT,
        env=os.environ | {_STEP: "enter", _INTO: str(into), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours to hear; what runs in there is ended below
    )
    try:
        return process.wait()
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill ``unshare`` and the first process of its namespaces, and wait until that is gone."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    text = children.read_text() if process.poll() is None else ""
    firsts = [os.pidfd_open(int(pid)) for pid in text.split()]
    process.kill()
    process.wait()
    for first in firsts:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(first, signal.SIGKILL)
        select.select([first], [], [], _END_SECONDS)
        os.close(first)


def replace(place: Path, into: Path) -> None:
    """Put what was made in the place of what was there; give it to the owner of the checkout."""
    place.mkdir(exist_ok=True)
    shutil.rmtree(place / "recording", ignore_errors=True)
    for name in ("recording", "truth.json"):
        (into / name).rename(place / name)
    owner = (ROOT / "samples").stat()
    for path in (place, *place.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


# Inside: the first process of the namespaces.


def run(*words: str) -> None:
    """Run a command; CalledProcessError, after what it printed, if it fails."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def enter(script: str) -> NoReturn:
    """Name the host, give Python a neutral path, and go on as that."""
    resource.setrlimit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    Path("/proc/sys/kernel/hostname").write_text(HOST)
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, where, kind = line.split()[:3]
        if kind == "cgroup2":  # shows from now on what is below our own cgroup only
            run("umount", "--lazy", where)
            run("mount", "-t", "cgroup2", device, where)
    with open(os.path.realpath(sys.executable), "rb") as python:
        os.set_inheritable(python.fileno(), True)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(_BIN))
        (_BIN / "python3").touch(0o755)
        source = f"/proc/{os.getpid()}/fd/{python.fileno()}"
        run("mount", "--bind", source, str(_BIN / "python3"))
    (_BIN / "sockrec").write_text(_SOCKREC)
    (_BIN / "sockrec").chmod(0o755)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONHOME": f"{sys.base_prefix}:{sys.base_exec_prefix}",
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}:{sysconfig.get_path('platlib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
        _STEP: "play",
        _INTO: os.environ[_INTO],
    }
    os.execve(_BIN / "python3", ["python3", script], environment)


def sysctl(name: str, value: str) -> None:
    """Set a sysctl of this network namespace."""
    Path("/proc/sys", name.replace(".", "/")).write_text(value)


def scratch() -> Path:
    """Return a directory for files of the processes; it is removed at the end."""
    return Path(os.environ[_INTO])


def kernel_counter(file: str, name: str) -> int:
    """Return a counter of this network namespace, as TcpExt.ListenDrops of netstat."""
    group, name = name.split(".")
    lines = [line.split() for line in Path("/proc/net", file).read_text().splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if names[0] == f"{group}:":
            return int(values[names.index(name)])
    raise StageError(f"/proc/net/{file} has no {group}.{name}")


def time_waits() -> int:
    """Return how many sockets of this network namespace the kernel counts in TIME-WAIT."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        words = line.split()
        if words[0] == "TCP:":
            return int(words[words.index("tw") + 1])
    raise StageError("/proc/net/sockstat has no line of TCP")


def start_recorder(incident: Incident, into: Path) -> subprocess.Popen[bytes]:
    """Start ``sockrec record`` and return when its first sample is written."""
    words = ["sockrec", "record", "-o", "recording", "-i", incident.interval]
    recorder = subprocess.Popen(
        [*words, "--netns", "current", "-q"], cwd=into, stdin=subprocess.DEVNULL
    )
    journal = into / "recording/samples/000001.arrows"
    until = time.monotonic() + _RECORDER_SECONDS
    while not (journal.exists() and journal.stat().st_size):
        if recorder.poll() is not None:
            raise StageError(f"sockrec record ended with status {recorder.returncode}")
        if time.monotonic() > until:
            raise StageError(f"sockrec record took no sample in {_RECORDER_SECONDS:.0f} s")
        time.sleep(0.01)
    return recorder


def stop_recorder(recorder: subprocess.Popen[bytes], into: Path) -> None:
    """End the recording; StageError if that fails or the machine was too busy for every sample."""
    recorder.send_signal(signal.SIGTERM)  # SIGINT may be ignored, as in a job of a script
    try:
        status = recorder.wait(_RECORDER_SECONDS)
    except subprocess.TimeoutExpired:
        raise StageError(f"sockrec record did not end in {_RECORDER_SECONDS:.0f} s") from None
    if status:
        raise StageError(f"sockrec record ended with status {status}")
    skipped = json.loads((into / "recording/recording.json").read_text())["skipped"]
    if skipped:
        raise StageError(f"{skipped} samples are missing, the machine was too busy: try again")


def play(incident: Incident, into: Path) -> int:
    """Run the processes, record them, write truth.json; return an exit status."""
    for name, value in {**_SYSCTLS, **incident.sysctls}.items():
        sysctl(name, value)
    stage = Stage()
    processes = []
    for comm, role in incident.processes.items():
        processes.append(start(comm, role, stage))
        time.sleep(0.1)  # a server is listening before its clients come
    time.sleep(0.5)
    try:
        recorder = start_recorder(incident, into)
        stage.begin()
        watch(stage, incident.seconds, recorder, processes)
        stop_recorder(recorder, into)
        stage.finish()
        facts = {process.comm: process.leave() for process in processes}
    except StageError as error:
        print(f"{incident.name}: {error}", file=sys.stderr)
        return 1
    pids: dict[str, int] = {}
    for process in processes:  # one that only ran another program tells of that
        pids |= facts[process.comm].pop("processes", None) or {process.comm: process.pid}
    truth = {
        "incident": incident.name,
        "story": incident.story,
        "finding": incident.finding,
        "comm": incident.comm,
        "pid": pids[incident.comm] if incident.comm else None,
        "subject": incident.subject,
        "numbers": incident.numbers(facts, stage),
        "processes": {comm: {"pid": pid} for comm, pid in pids.items()},
    }
    (into / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return 0


def watch(
    stage: Stage,
    seconds: float,
    recorder: subprocess.Popen[bytes],
    processes: Sequence[Process],
) -> None:
    """Wait until that second; StageError if anything ends before."""
    while stage.now() < seconds:
        stage.sleep(0.2)
        if recorder.poll() is not None:
            raise StageError(f"sockrec record ended too early, with status {recorder.returncode}")
        for process in processes:
            process.check()
