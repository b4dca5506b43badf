"""Network namespaces of unique names, made by ``ip netns`` and gone with their context."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

MOUNTS = Path("/run/netns")

_numbers = itertools.count()


def lacking(*commands: str) -> str | None:
    """Say what this machine lacks to make namespaces and run these commands, None if nothing."""
    if os.geteuid() != 0:
        return "needs root: makes network namespaces"
    absent = [name for name in ("ip", *commands) if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else None


def ip(*words: str) -> None:
    """Run ``ip`` with these words; CalledProcessError, with what it printed, if it fails."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def inode_of(name: str) -> int:
    """Return the inode number of a named namespace, as column ``netns`` has it."""
    return os.stat(MOUNTS / name).st_ino


def unique_name() -> str:
    """Return a name for a namespace that no other test run uses."""
    return f"sockrec-{os.getpid()}-{next(_numbers)}"


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """Make a namespace with its loopback interface up; yield its name."""
    name = unique_name()
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)


def unmount(point: Path | str) -> None:
    """Unmount what nobody holds; a recorder beside may just be looking at what is mounted there."""
    limit = time.monotonic() + 30
    while (done := subprocess.run(["umount", point], capture_output=True, text=True)).returncode:
        assert time.monotonic() < limit, done.stderr
        time.sleep(0.05)


def inside(name: str, *command: str) -> list[str]:
    """Return the command that runs a command inside a namespace."""
    return ["ip", "netns", "exec", name, *command]


Result = TypeVar("Result")


def entered(name: str, action: Callable[[], Result]) -> Result:
    """Run an action in a thread of its own inside a namespace; raise what it raises."""
    found: list[Result] = []
    failed: list[BaseException] = []

    def enter() -> None:
        with open(MOUNTS / name) as file:
            assert not ctypes.CDLL(None).setns(file.fileno(), 0x40000000)
        try:
            found.append(action())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
