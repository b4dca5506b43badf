"""What cgroups grant their processes of CPU and memory, and how often they met that limit.

A limit bounds all below it, so that of a process is sought upward from its own cgroup: the nearest
one counts. Both of v2 and of the hierarchies of v1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recorder.host.procfs import decode

_MOUNT = re.compile(
    rb"^\d+ \d+ \S+ (?P<root>\S+) (?P<path>\S+) .*- (?P<kind>cgroup2?) \S+ (?P<options>\S+)$",
    re.MULTILINE,
)
_OCTAL = re.compile(rb"\\([0-7]{3})")
_UNIFIED = ""
"""What stands in /proc/PID/cgroup in place of the controllers of v2."""

_NO_LIMIT = 1 << 60
"""More memory than any host has: what v1 says where there is no limit."""

SEEK_EVERY = 30
"""Looks after which it is sought anew which cgroup has a limit."""

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of a process's cgroups, and what came of them so far; None where there is none."""

    cpu_limit_us: int | None = None  # in a second
    nr_periods: int | None = None
    nr_throttled: int | None = None
    throttled_us: int | None = None
    memory_limit_bytes: int | None = None
    memory_limit_hits: int | None = None
    oom_kills: int | None = None


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class _Place:
    """A mounted hierarchy: which part of it is mounted, and where."""

    root: str
    path: str

    def folder(self, cgroup: str) -> str | None:
        """Return where a cgroup is, None if that part is not mounted."""
        below = self.root.rstrip("/")
        if below and cgroup != below and not cgroup.startswith(below + "/"):
            return None
        return os.path.normpath(f"{self.path}/{cgroup[len(below) :]}")


@dataclass(slots=True)
class _Limited:
    """The nearest folder with a limit of each kind, None if there is none, and which look found."""

    cpu: tuple[str, int] | None
    memory: tuple[str, int] | None
    look: int


class Quotas:
    """Reads the limits of cgroups, each once a look."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._places = _mounts(proc)
        self._limited: dict[bytes, _Limited] = {}
        self._read: dict[str, dict[str, int]] = {}
        self._look = 0

    def begin(self) -> None:
        """Begin a look: what was read before is read again."""
        self._look += 1
        self._read = {}

    def of(self, cgroups: bytes) -> Quota:
        """Return the limits of a process, given its /proc/PID/cgroup."""
        found = self._limited.get(cgroups)
        if found is None or self._look - found.look >= SEEK_EVERY:
            if len(self._limited) > _MOST:
                self._limited = {}
            found = self._limited[cgroups] = self._seek(cgroups)
        if found.cpu is None and found.memory is None:
            return NO_QUOTA
        cpu: dict[str, int] = {}
        memory: dict[str, int] = {}
        if found.cpu is not None:
            cpu = self._numbers(f"{found.cpu[0]}/cpu.stat")
        if found.memory is not None:
            for name in ("memory.events", "memory.failcnt", "memory.oom_control"):
                memory |= self._numbers(f"{found.memory[0]}/{name}")
        throttled = cpu.get("throttled_usec")
        if throttled is None and "throttled_time" in cpu:
            throttled = cpu["throttled_time"] // 1000  # v1: nanoseconds
        return Quota(
            cpu_limit_us=found.cpu[1] if found.cpu else None,
            nr_periods=cpu.get("nr_periods"),
            nr_throttled=cpu.get("nr_throttled"),
            throttled_us=throttled,
            memory_limit_bytes=found.memory[1] if found.memory else None,
            memory_limit_hits=memory.get("max", memory.get("")),
            oom_kills=memory.get("oom_kill"),
        )

    def _seek(self, cgroups: bytes) -> _Limited:
        own: dict[str, str] = {}
        for line in decode(cgroups).splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            own |= dict.fromkeys(controllers.split(","), path)
        return _Limited(
            self._nearest(own, "cpu", _cpu_limit),
            self._nearest(own, "memory", _memory_limit),
            self._look,
        )

    def _nearest(
        self, own: dict[str, str], controller: str, limit: Callable[[str], int | None]
    ) -> tuple[str, int] | None:
        kind = controller if controller in own else _UNIFIED
        place, cgroup = self._places.get(kind), own.get(kind)
        folder = place.folder(cgroup) if place is not None and cgroup is not None else None
        while place is not None and folder is not None and folder.startswith(place.path):
            amount = limit(folder)
            if amount is not None:
                return folder, amount
            if folder == place.path:
                break
            folder = os.path.dirname(folder)
        return None

    def _numbers(self, path: str) -> dict[str, int]:
        """Return the numbers of a file by their names; a single one has none."""
        if path not in self._read:
            self._read[path] = {
                " ".join(name): int(value)
                for *name, value in (line.split() for line in _text(path).splitlines() if line)
                if value.isdecimal()
            }
        return self._read[path]


def _cpu_limit(folder: str) -> int | None:
    """Return the CPU time a second that a cgroup may use, in microseconds."""
    quota, _, period = _text(f"{folder}/cpu.max").strip().partition(" ")
    if not quota:
        quota = _text(f"{folder}/cpu.cfs_quota_us").strip()
        period = _text(f"{folder}/cpu.cfs_period_us").strip()
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return None
    return int(quota) * 1_000_000 // int(period)


def _memory_limit(folder: str) -> int | None:
    amount = (_text(f"{folder}/memory.max") or _text(f"{folder}/memory.limit_in_bytes")).strip()
    return int(amount) if amount.isdecimal() and int(amount) < _NO_LIMIT else None


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode("ascii", "replace")
    except OSError:
        return ""


def _mounts(proc: Path) -> dict[str, _Place]:
    """Return where the hierarchies are mounted, by their controllers; those mounted whole win."""
    try:
        table = (proc / "self/mountinfo").read_bytes()
    except OSError:
        return {}
    found: dict[str, _Place] = {}
    for mount in sorted(_MOUNT.finditer(table), key=lambda one: one["root"] == b"/"):
        root, path = (
            os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), mount[part]))
            for part in ("root", "path")
        )
        kinds = [_UNIFIED] if mount["kind"] == b"cgroup2" else decode(mount["options"]).split(",")
        found |= dict.fromkeys(kinds, _Place(root, path))
    return found
