"""The command as a user without any privilege: it records what it may and says what it may not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from tests.recorder.support.recorded import read, record
from tests.recorder.support.rows import Row
from tests.workloads.netns import inode_of, inside, lacking, namespace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(lacking("setpriv") is not None, reason=str(lacking("setpriv"))),
]

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PORTS = {0: 7201, NOBODY: 7202}
"""Ports root and nobody listen on."""

_AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

_LISTEN = """
import os, socket, sys
one = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(os.getpid(), flush=True)
sys.stdin.read()
"""

_CONNECT = """
import socket, sys, time
time.sleep(0.3)
for port in sys.argv[1:]:
    socket.create_connection(("127.0.0.1", int(port))).close()
time.sleep(0.5)
"""


@dataclass(frozen=True)
class Recorded:
    """What nobody recorded in a namespace where root and nobody listen."""

    facts: dict[str, Any]
    sockets: list[Row]
    samples: list[Row]
    closes: list[Row]
    listeners: dict[int, int]

    def unseen(self, word: str) -> list[dict[str, str]]:
        """Return what could not be seen, as far as a word is in it."""
        return [one for one in self.facts["unseen"] if word in f"{one['what']} {one['why']}"]


@dataclass(frozen=True)
class Installation:
    """A Python, its packages and the project, where nobody may run them."""

    python: str
    project: Path
    environment: dict[str, str]


def _installation(python: str, project: Path, *packages: str) -> Installation:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(project), *packages]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/",
        "LD_LIBRARY_PATH": str(Path(python).parents[1] / "lib"),  # if it is a library
    }
    return Installation(python, project, environment)


def _reachable(one: Installation) -> bool:
    """Tell whether nobody may run sockrec with a Python."""
    # run by a shell, as a program that is run at once is looked up with root's rights
    probe = 'cd "$1" && "$0" -c "import json, numpy, pyarrow, typer, sockrec, recorder.recording"'
    done = subprocess.run(
        [*_AS_NOBODY, "sh", "-c", probe, one.python, str(one.project)],
        cwd="/",
        env=one.environment,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _installed(directory: Path) -> Installation:
    """Return an installation that nobody may run: one that is there, or a copy of this one."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    name = f"python{sysconfig.get_python_version()}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if _reachable(there := _installation(python, ROOT, *packages)):
            return there
    copy = directory / "installation"
    stdlib = Path(sysconfig.get_path("stdlib"))
    binary = copy / "bin" / name
    binary.parent.mkdir(parents=True)
    shutil.copy(os.path.realpath(sys.executable), binary)
    _copy(stdlib, copy / stdlib.relative_to(sys.base_prefix), "test", "idlelib", "*-packages")
    for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy(library, copy / "lib")
    for part in ("recorder", "analyzer", "queries"):
        _copy(ROOT / part, copy / "project" / part)
    shutil.copy(ROOT / "sockrec.py", copy / "project")
    copied = []
    for number, path in enumerate(packages):
        copied.append(str(copy / f"packages{number}"))
        _copy(Path(path), Path(copied[-1]), *_UNUSED)
    subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
    one = _installation(str(binary), copy / "project", *copied)
    if not _reachable(one):
        pytest.skip("needs a Python that works where it is copied to")
    return one


_UNUSED = ("duckdb*", "_duckdb*", "pandas*", "mypy*", "ruff*", "pip*", "hypothesis*")
"""Large packages that the recorder does without."""


def _copy(source: Path, target: Path, *ignored: str) -> None:
    ignore = shutil.ignore_patterns("__pycache__", *ignored)
    shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    # not below pytest's own directory, nor perhaps TMPDIR, which only root may enter
    directory = Path(tempfile.mkdtemp(prefix="sockrec-nobody-", dir="/tmp"))
    os.chown(directory, NOBODY, NOBODY)
    children = []
    try:
        installed = _installed(directory)
        python, environment = installed.python, installed.environment
        with namespace() as name:
            listeners = {}
            for uid, port in PORTS.items():
                become = _AS_NOBODY if uid else []
                child = subprocess.Popen(
                    inside(name, *become, python, "-c", _LISTEN, str(port)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd=installed.project,
                    env=environment,
                    text=True,
                )
                children.append(child)
                assert child.stdout is not None
                listeners[uid] = int(child.stdout.readline())
            target = directory / "recording"
            work = [python, "-c", _CONNECT, *map(str, PORTS.values())]
            done = subprocess.run(
                inside(
                    name,
                    *_AS_NOBODY,
                    # once more, so that this Python too is looked up without root's rights
                    *("env", *record(target, "-i", "200ms", python=python), "--", *work),
                ),
                cwd=installed.project,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, "")
            netns = inode_of(name)
        mine = pc.field("netns") == netns
        yield Recorded(
            json.loads((target / "recording.json").read_text()),
            read(target, "sockets").filter(mine).to_pylist(),
            read(target, "samples").to_pylist(),
            read(target, "closes").filter(mine).to_pylist(),
            listeners,
        )
    finally:
        for child in children:
            for stream in (child.stdin, child.stdout):
                assert stream is not None
                stream.close()
            child.wait(60)
        shutil.rmtree(directory)


def test_it_ends_well_and_belongs_to_its_user(recorded: Recorded) -> None:
    assert recorded.facts["exit"] == "command"
    assert recorded.sockets != []


def test_sockets_of_all_users_are_seen_and_owners_of_its_own(recorded: Recorded) -> None:
    for uid, port in PORTS.items():
        rows = [
            row for row in recorded.sockets if (row["local_port"], row["state"]) == (port, "LISTEN")
        ]
        assert rows != []
        assert {row["uid"] for row in rows} == {uid}
        owner = recorded.listeners[uid] if uid else None
        assert {row["pid"] for row in rows} == {owner}


def test_what_needs_a_capability_is_null_and_named(recorded: Recorded) -> None:
    assert {row["mark"] for row in recorded.sockets} == {None}
    assert recorded.unseen("CAP_NET_ADMIN") != []


def test_processes_whose_descriptors_it_may_not_read_are_counted_and_named(
    recorded: Recorded,
) -> None:
    steps = [row for row in recorded.samples if row["step"] == "owners"]
    assert all(row["denied"] > 0 for row in steps)  # type: ignore[operator]  # a count
    assert {row["outcome"] for row in steps} == {"partial"}
    assert recorded.unseen("owners") != []


def test_namespaces_it_may_not_enter_are_named(recorded: Recorded) -> None:
    assert recorded.unseen("namespace") != []


def test_closes_are_announced_to_everyone(recorded: Recorded) -> None:
    # nobody accepts the other ends, so they live on
    ports = [row["peer_port"] for row in recorded.closes if row["connection"]]
    assert {ports.count(port) for port in PORTS.values()} == {1}
