"""Network namespaces of unique names, made by ``ip netns`` and gone with their context."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

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
