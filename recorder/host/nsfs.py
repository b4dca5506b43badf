"""The processes and mounts that keep network namespaces, which are files of nsfs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recorder.host.procfs import GONE, decode, list_directory, parse_stat, read_file

OPEN = os.O_RDONLY | os.O_CLOEXEC
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""Error numbers of what failed for want of a descriptor only."""

# A line of /proc/PID/mountinfo, proc_pid_mountinfo(5): inode number and mount point.
_NSFS_MOUNT = re.compile(rb"^\d+ \d+ \S+ net:\[(\d+)\] (\S+) .*- nsfs ", re.MULTILINE)
_OCTAL = re.compile(rb"\\([0-7]{3})")

Ways = dict[int, dict[str, str]]
"""Inode number of a namespace -> path that leads to it, below /proc if relative -> its name."""


@dataclass(frozen=True, order=True)
class Process:
    """A process; of two, the one that started first is less."""

    start_us: int
    pid: int
    comm: str


class Processes:
    """The namespace of every process."""

    def __init__(self, proc: Path) -> None:
        self.proc = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.denied = 0
        self._listed: set[str] = set()
        self._links: dict[str, str] = {}  # pid -> net:[inode]
        self._moved: dict[str, list[str]] = {}  # net:[inode] -> pids that came from another
        self._inside: dict[str, list[str]] | None = None  # net:[inode] -> pids

    def close(self) -> None:
        """Let go of /proc."""
        if self.proc >= 0:
            os.close(self.proc)
            self.proc = -1

    def look(self) -> None:
        """Look at every process."""
        before, self._links = self._links, {}
        self.denied = 0
        with contextlib.suppress(OSError):  # no descriptor is left: look at those known
            self._listed = {*os.listdir(self.proc)}
        self._read(self._listed)
        self._moved = {}
        for pid, link in self._links.items() - before.items():
            if pid in before:
                self._moved.setdefault(link, []).append(pid)

    def look_again(self) -> None:
        """Look at the processes that came since."""
        with contextlib.suppress(OSError):
            self._read({*os.listdir(self.proc)} - self._listed)

    def _read(self, names: Iterable[str]) -> None:
        self._inside = None
        links, readlink, proc = self._links, os.readlink, self.proc
        for pid in names:
            if pid.isdecimal():
                try:
                    links[pid] = readlink(pid + "/ns/net", dir_fd=proc)
                except PermissionError:
                    self.denied += 1
                except OSError:
                    self._read_threads(pid)

    def _read_threads(self, pid: str) -> None:
        """Look at a process by its threads: its first one may have ended, it has no namespace."""
        with contextlib.suppress(OSError):
            for thread in list_directory(self.proc, f"{pid}/task"):
                with contextlib.suppress(OSError):
                    path = f"{pid}/task/{thread}/ns/net"
                    self._links[pid] = os.readlink(path, dir_fd=self.proc)
                    return

    def mount_namespaces(self) -> dict[str, str]:
        """Return one process of each mount namespace."""
        found = {}
        for pid in self._links:
            with contextlib.suppress(OSError):
                found[os.readlink(f"{pid}/ns/mnt", dir_fd=self.proc)] = pid
        return found

    def inodes(self) -> set[int]:
        """Return the namespaces that have a process."""
        return {int(link[5:-1]) for link in {*self._links.values()}}

    def inside(self, inode: int) -> list[str]:
        """Return the processes in a namespace."""
        if self._inside is None:
            self._inside = {}
            for pid, link in self._links.items():
                self._inside.setdefault(link, []).append(pid)
        return self._inside.get(f"net:[{inode}]", [])

    def oldest(self, inode: int, known: Process | None, *, reread: bool) -> Process | None:
        """Return the process of a namespace that started first; ``known`` is the last answer.

        A process that came since can only be the one if it came from another namespace. Whether
        the known one is still the same, with the same name, is only looked at on ``reread``.
        """
        link = f"net:[{inode}]"
        try:
            if known is not None and self._links.get(str(known.pid)) == link:
                moved = self._moved.get(link, [])
                if not moved and not reread:
                    return known
                found = self._first([str(known.pid), *moved])
                if found and (found.pid != known.pid or found.start_us == known.start_us):
                    return found
            pids = self.inside(inode)
            return self._first(["1"] if "1" in pids else pids)
        except OSError:  # no descriptor is left
            return known

    def _first(self, pids: Iterable[str]) -> Process | None:
        found = []
        for pid in pids:
            with contextlib.suppress(*GONE, PermissionError):
                stat = parse_stat(read_file(self.proc, f"{pid}/stat", 4096))
                found.append(Process(stat.start_us, int(pid), stat.comm))
        return min(found, default=None)


class Mounts:
    """The mounts that keep network namespaces: those we see and those that others see."""

    def __init__(self, processes: Processes, named: Path, device: int) -> None:
        self._processes = processes
        self._named = str(named)
        self._device = device  # of every namespace there is
        self._own: Ways = {}
        self._others: Ways = {}
        self._current = False
        self._table = -1
        self._news = select.poll()
        with contextlib.suppress(OSError):
            self._table = os.open("self/mountinfo", OPEN, dir_fd=processes.proc)
            self._news.register(self._table, select.POLLPRI | select.POLLERR)

    def close(self) -> None:
        """Let go of our table of mounts."""
        if self._table >= 0:
            os.close(self._table)
            self._table = -1

    def name(self, path: str) -> str:
        """Return what ip-netns(8) calls a namespace mounted there; the path if it does not."""
        head, tail = os.path.split(path)
        return decode(os.fsencode(tail if head == self._named else path))

    def read(self, inhabited: set[int], *, swept: bool) -> Ways:
        """Return the ways by mounts; ``inhabited`` are the namespaces that have a process."""
        self._current = self._current and not (swept or self._table < 0 or self._news.poll(0))
        with contextlib.suppress(OSError):  # no descriptor is left
            if not self._current:
                self._own = self._read_own()
                self._current = True
            if swept or not self._others_hold(inhabited):
                self._others = self._read_others()
        ways = dict(self._own)
        for inode, paths in self._others.items():
            ways[inode] = {**paths, **ways.get(inode, {})}
        return ways

    def _others_hold(self, inhabited: set[int]) -> bool:
        """Tell whether no namespace is kept by nothing but a mount that may be gone by now."""
        alone = self._others.keys() - self._own.keys() - inhabited
        return all(any(self._leads(path, n) for path in self._others[n]) for n in alone)

    def _leads(self, path: str, inode: int) -> bool:
        try:
            return os.stat(path, dir_fd=self._processes.proc).st_ino == inode
        except OSError:
            return False

    def _read_own(self) -> Ways:
        ways: Ways = {}
        with _skipping():
            self._add(ways, "self", "")
        with _skipping():
            for name in os.listdir(self._named):
                path = f"{self._named}/{name}"
                with contextlib.suppress(OSError):
                    found = os.stat(path)
                    if found.st_dev == self._device:
                        ways.setdefault(found.st_ino, {})[path] = self.name(path)
        return ways

    def _read_others(self) -> Ways:
        ways: Ways = {}
        processes = self._processes.mount_namespaces()
        with contextlib.suppress(OSError):
            processes.pop(os.readlink("self/ns/mnt", dir_fd=self._processes.proc), None)
        for pid in processes.values():
            with _skipping():
                self._add(ways, pid, f"{pid}/root")
        return ways

    def _add(self, ways: Ways, pid: str, root: str) -> None:
        for number, point in _NSFS_MOUNT.findall(_read_whole(self._processes.proc, pid)):
            path = os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), point))
            inode = int(number)
            if not root or path not in self._own.get(inode, {}):  # a copy mostly goes with ours
                ways.setdefault(inode, {})[root + path] = self.name(path)


@contextlib.contextmanager
def _skipping() -> Iterator[None]:
    """Leave out what cannot be read, unless for want of a descriptor."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise


def _read_whole(proc: int, pid: str) -> bytes:
    file = os.open(f"{pid}/mountinfo", OPEN, dir_fd=proc)
    with open(file, "rb", buffering=1 << 16) as whole:
        return whole.read()
