"""What the recorder needs of the host, what there is of it, and what an error says was lacking."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recorder.schema import SockrecError

DESCRIPTORS = 48
ADDRESS_SPACE = 320 << 20
DATA = 160 << 20
MEMORY = 112 << 20
"""What recording a few hundred sockets takes, as measured, and a margin; see docs/recording.md."""

MARGIN = 16 << 20
"""Memory that is to be left when a sample is begun."""

_TIGHT = 1 << 30
"""A cgroup of more memory than this is none that a recorder alone fills."""

_RAISE = "raise the limit"
_MOUNT = re.compile(rb"^\d+ \d+ \S+ (\S+) (\S+) .*- (cgroup2?) \S+ (\S+)$", re.MULTILINE)
_NO_THREAD = re.compile("can't start new thread|Failed to launch worker thread")
"""How Python, in a RuntimeError, and Arrow say it: neither gives a number."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/statm, proc_pid_statm(5).
_SIZE, _RESIDENT, _SHARED, _DATA = 0, 1, 2, 5


class WantError(SockrecError):
    """There is too little of something that the recorder cannot do without."""


@dataclass(frozen=True)
class _Limit:
    """How much memory of some kind there may be, and how much is needed to begin."""

    what: str
    amount: int
    need: int
    remedy: str
    field: int
    """The field of statm that counts it; of _RESIDENT only what is not shared."""

    @property
    def is_tight(self) -> bool:
        return self.field != _RESIDENT or self.amount < _TIGHT

    def used(self, statm: list[int]) -> int:
        shared = statm[_SHARED] if self.field == _RESIDENT else 0
        return (statm[self.field] - shared) * _PAGE


class Room:
    """The memory that this process may have, looked at before it is too late to say so."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._statm = proc / "self/statm"
        self._limits = list(_memory_limits(proc))

    @property
    def is_tight(self) -> bool:
        """Whether nothing is to be reserved that may never be used."""
        return any(limit.is_tight for limit in self._limits)

    def check_start(self) -> None:
        """Raise WantError if there is less than the smallest recording takes.

        To be asked before numpy and Arrow are loaded, which for want of memory abort the process.
        """
        for limit in self._limits:
            if limit.amount < limit.need:
                raise WantError(
                    f"cannot record with {_mib(limit.amount)} of {limit.what}: "
                    f"it needs {_mib(limit.need)}; {_RAISE} ({limit.remedy})"
                )

    @contextlib.contextmanager
    def bounded(self) -> Iterator[None]:
        """Have allocations fail, which can be told, rather than be killed for what is too much.

        A memory cgroup kills; RLIMIT_DATA, for this process and the sealing child, does not.
        """
        before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        statm = self._read_statm()
        for limit in self._limits:
            if limit.field == _RESIDENT and limit.is_tight:
                spare = max(limit.amount - limit.used(statm) - MARGIN, 0)
                bound = statm[_DATA] * _PAGE + spare
                if soft == resource.RLIM_INFINITY or bound < soft:
                    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
        try:
            yield
        finally:
            with contextlib.suppress(OSError, ValueError):  # somebody lowered the hard limit
                resource.setrlimit(resource.RLIMIT_DATA, before)

    def check(self) -> None:
        """Raise WantError if so little is left that the next sample might not be survived."""
        if not self.is_tight:
            return
        statm = self._read_statm()
        for limit in self._limits:
            if limit.amount - limit.used(statm) < MARGIN:
                raise WantError(
                    f"{_mib(limit.used(statm))} of {_mib(limit.amount)} of {limit.what} are used, "
                    f"and the rest may be too little for a sample; {_RAISE} ({limit.remedy})"
                )

    def has(self, amount: int) -> bool:
        """Tell whether so much more may be taken, in bytes, and the margin is left."""
        statm = self._read_statm()
        return all(limit.amount - limit.used(statm) >= amount + MARGIN for limit in self._limits)

    def _read_statm(self) -> list[int]:
        return [int(field) for field in self._statm.read_bytes().split()]


def check_descriptors() -> None:
    """Raise WantError if fewer may be opened than recording the own namespace takes."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise WantError(
            f"cannot record with {hard} descriptors: it needs {DESCRIPTORS}; {_RAISE} (ulimit -n)"
        )


def lack(error: BaseException) -> str | None:
    """Return what an error says was lacking, and how there is more; None if it was nothing."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE:
        return f"no descriptor was left; {_RAISE} (ulimit -n)"
    if number == errno.ENFILE:
        return f"the host has no descriptor left; {_RAISE} (sysctl fs.file-max)"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        return f"no memory was left; {_RAISE} (memory.max, ulimit -v)"
    if number == errno.EAGAIN or (number is None and _NO_THREAD.search(str(error))):
        return f"no thread or process could be started; {_RAISE} (pids.max, ulimit -u)"
    return None


def is_lack(why: str) -> bool:
    """Whether a reason is one of those that `lack` gives."""
    return f"; {_RAISE} (" in why


def memory_limit(proc: Path = Path("/proc")) -> int | None:
    """Return the least limit of memory of our cgroup and those around it, None if there is none."""
    try:
        own = [line.split(b":", 2) for line in (proc / "self/cgroup").read_bytes().splitlines()]
        mounts = _MOUNT.findall((proc / "self/mountinfo").read_bytes())
    except OSError:
        return None
    limits = []
    for root, point, kind, options in mounts:
        controller = b"memory" if kind == b"cgroup" else b""
        name = "memory.limit_in_bytes" if kind == b"cgroup" else "memory.max"
        if controller and controller not in options.split(b","):
            continue
        for path in (line[2] for line in own if controller in line[1].split(b",")):
            for directory in _up_to(Path(os.fsdecode(point)), path, root):
                with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                    limits.append(int((directory / name).read_text()))
    return min(limits, default=None)


def _up_to(point: Path, path: bytes, root: bytes) -> Iterator[Path]:
    """Yield the directories of a cgroup and those around it, as far as they are mounted."""
    prefix = root.rstrip(b"/")
    inside = path.removeprefix(prefix) if path.startswith(prefix + b"/") else b""
    directory = point / os.fsdecode(inside.lstrip(b"/"))
    yield directory
    while directory != point:
        directory = directory.parent
        yield directory


def _memory_limits(proc: Path) -> Iterator[_Limit]:
    for number, what, need, remedy, field in (
        (resource.RLIMIT_AS, "address space", ADDRESS_SPACE, "ulimit -v", _SIZE),
        (resource.RLIMIT_DATA, "data", DATA, "ulimit -d", _DATA),
    ):
        soft = resource.getrlimit(number)[0]
        if soft != resource.RLIM_INFINITY:
            yield _Limit(what, soft, need, remedy, field)
    amount = memory_limit(proc)
    if amount is not None:
        yield _Limit("memory in its cgroup", amount, MEMORY, "memory.max", _RESIDENT)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
