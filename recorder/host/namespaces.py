"""The network namespaces of the host: found, entered, and let go once nothing else has them.

A namespace is found by the processes in it, and by the mounts that keep it: those of ip-netns(8),
of a container runtime, of a service with mounts of its own. One that only a thread, an open
descriptor or a socket keeps is not found.

Every namespace found is held by a descriptor, and with it all that is in it: until we let go, its
interfaces do not come back to the host. So it is let go by the first update that finds it neither
by a process nor by a mount; from then on it lives only as long as sockets do, the caller's too.
The mount that led to it is not held: others may unmount it at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from recorder.host.limits import lack
from recorder.host.nsfs import OPEN, Mounts, Process, Processes, Ways
from recorder.host.procfs import GONE, decode
from recorder.host.visitor import CLONE_NEWNET, Visitor, attempt
from recorder.schema import SockrecError

T = TypeVar("T")

ALL, CURRENT = "all", "current"
NAMED = Path("/run/netns")
"""Where ip-netns(8) mounts the namespaces it gives a name."""

_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h
_PROCESSES_TRIED = 8

# A process that stands for a namespace is looked at in so many updates after it came, when it may
# still become another program, and then in one of so many.
_YOUNG, _REREAD = 5, 10

EACH = 3
"""Descriptors that a namespace takes: one to enter it, and two sockets of the caller."""

RESERVED = 64
"""Descriptors left to the rest of the recorder, which must not end for want of one."""


class NamespaceError(SockrecError):
    """A network namespace was asked for that is not there or may not be seen."""


@dataclass(frozen=True)
class Namespace:
    """A network namespace as one update found it."""

    inode: int
    names: tuple[str, ...]  # those of ip-netns(8) first, then paths it is mounted at
    pid: int | None  # the process in it that started first; None if there is none
    start_us: int | None
    comm: str | None
    home: bool  # the one this process is in
    entered: bool
    why: str | None  # why it could not be entered; None if it was


@dataclass(frozen=True)
class NamespacesStep:
    """What one update found to be different.

    Of a namespace that vanished the caller is to close every socket made in it: they keep it alive.
    """

    appeared: list[Namespace]
    vanished: list[Namespace]
    changed: list[tuple[Namespace, Namespace]]  # before and after
    denied: int  # processes whose namespace may not be seen
    unseen: list[dict[str, str]]  # items for recording.json, each once


@dataclass
class _Known:
    namespace: Namespace
    descriptor: int = -1
    error: OSError | None = None  # what went wrong entering it
    paths: dict[str, str] = field(default_factory=dict)
    oldest: Process | None = None
    described: int = 0  # the update that described it last


class Namespaces:
    """Follow the network namespaces of the host, and run code in them.

    ``select`` is "all", or one or several of "current", a name that ip-netns(8) gave, a path, or
    the number of a process. A name is followed: when it comes to mean another namespace, that one
    takes the place of the first. NamespaceError if a name or a process is not there.

    The mounts that only other processes see are looked at once in ``sweep`` updates. Not safe to
    be called by several threads.
    """

    def __init__(
        self,
        select: str | Sequence[str] = ALL,
        *,
        proc: Path = Path("/proc"),
        named: Path = NAMED,
        sweep: int = 30,
    ) -> None:
        selected = [select] if isinstance(select, str) else list(select)
        self.all = ALL in selected
        self._sweep = sweep
        self._visitor: Visitor | None = None
        self._known: dict[int, _Known] = {}
        self._told: set[tuple[str, str]] = set()
        self._updates = 0
        self._chosen: set[int] = set()
        self._followed: list[str] = []
        self._processes = Processes(proc)
        home = os.stat(proc / "self/ns/net")
        self._home, self._device = home.st_ino, home.st_dev
        self._mounts = Mounts(self._processes, named, home.st_dev)
        try:
            for choice in selected:
                self._choose(choice, named)
        except NamespaceError:
            self.close()
            raise

    def _choose(self, choice: str, named: Path) -> None:
        if choice == CURRENT:
            self._chosen.add(self._home)
        elif choice.isdecimal():
            path, what = f"{choice}/ns/net", f"process {choice}"
            self._chosen.add(_inode_of(path, self._processes.proc, what, "process"))
        elif choice != ALL:
            path = os.path.abspath(choice if "/" in choice else named / choice)
            missing = "network namespace: `ip netns` lists the names"
            _inode_of(path, self._processes.proc, choice, missing)
            self._followed.append(path)

    @property
    def current(self) -> list[Namespace]:
        """Those found by the last update: home first, the others in the order they appeared."""
        return [known.namespace for known in self._known.values()]

    def update(self) -> NamespacesStep:
        """Look at the host again; what comes or goes meanwhile is found now or by the next update.

        Never raises for what processes and namespaces do.
        """
        swept = self._updates % self._sweep == 0
        self._updates += 1
        if not (swept or self.all or self._followed or self._chosen - {self._home}):
            return NamespacesStep([], [], [], 0, [])
        self._processes.look()
        ways = self._ways(swept=swept)
        if not ways.keys() >= self._known.keys():
            # a process may have left its namespace to a child since /proc was listed
            self._processes.look_again()
            ways = self._ways(swept=False)
        gone = [inode for inode in self._known if inode not in ways]
        vanished = [self._let_go(inode) for inode in gone]
        appeared, changed = self._describe(ways)
        return NamespacesStep(appeared, vanished, changed, self._processes.denied, self._unseen())

    def _ways(self, *, swept: bool) -> Ways:
        """Return the namespaces selected that are there, home first."""
        inhabited = self._processes.inodes()
        mounted = self._mounts.read(inhabited, swept=swept)
        followed = {}
        for path in self._followed:
            with contextlib.suppress(OSError):
                found_there = os.stat(path)
                # a plain file stands there before ip-netns(8) mounts, and after a lazy umount
                if found_there.st_dev == self._device:
                    followed[found_there.st_ino] = {path: self._mounts.name(path)}
        found = {*inhabited, *mounted, *followed, self._home}
        if not self.all:
            found &= {*self._chosen, *followed}
        return {
            inode: {**followed.get(inode, {}), **mounted.get(inode, {})}
            for inode in sorted(found, key=lambda inode: (inode != self._home, inode))
        }

    def _describe(self, ways: Ways) -> tuple[list[Namespace], list[tuple[Namespace, Namespace]]]:
        """Bring what is known up to date and hold what is new."""
        before = self._known.keys() & ways.keys()
        self._hold(ways)
        appeared, changed = [], []
        for inode, known in self._known.items():
            old = known.namespace
            self._describe_one(known, ways[inode])
            if inode not in before:
                appeared.append(known.namespace)
            elif known.namespace is not old and known.namespace != old:
                changed.append((old, known.namespace))
        return appeared, changed

    def _describe_one(self, known: _Known, paths: dict[str, str]) -> None:
        inode = known.namespace.inode
        young = self._updates - known.described < _YOUNG
        reread = young or (inode + self._updates) % _REREAD == 0
        oldest = self._processes.oldest(inode, known.oldest, reread=reread)
        entered = known.error is None
        if (paths, oldest, entered) == (known.paths, known.oldest, known.namespace.entered):
            return
        known.paths, known.oldest, known.described = paths, oldest, self._updates
        known.namespace = Namespace(
            inode,
            names=tuple(sorted({*paths.values()}, key=lambda name: (name.startswith("/"), name))),
            pid=oldest.pid if oldest else None,
            start_us=oldest.start_us if oldest else None,
            comm=oldest.comm if oldest else None,
            home=known.namespace.home,
            entered=entered,
            why=_why(known.error) if known.error else None,
        )

    def _hold(self, ways: Ways) -> None:
        """Open and enter the namespaces that are new, and those that something was lacking for."""
        for inode, paths in ways.items():
            known = self._known.get(inode)
            if known is None:
                known = _Known(
                    Namespace(inode, (), None, None, None, inode == self._home, True, None)
                )
            elif known.error is None or lack(known.error) is None:
                continue
            if not known.namespace.home:
                try:
                    known.descriptor = self._open(inode, paths)
                except GONE:
                    continue
                except OSError as error:
                    known.error = error
                else:
                    known.error = None
            self._known[inode] = known

    def _open(self, inode: int, paths: Iterable[str]) -> int:
        """Return a descriptor of a namespace, by whichever way still leads to it."""
        pids = self._processes.inside(inode)[:_PROCESSES_TRIED]
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = limit - RESERVED if limit != resource.RLIM_INFINITY else sys.maxsize
        held = sum(known.descriptor >= 0 for known in self._known.values())
        if (held + 1) * EACH > most:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        for path in (*(f"{pid}/ns/net" for pid in pids), *paths):
            try:
                descriptor = os.open(path, OPEN, dir_fd=self._processes.proc)
            except OSError as error:
                if not isinstance(error, GONE):
                    failure = error
                continue
            try:
                if os.fstat(descriptor).st_ino == inode:
                    return self._hold_inside(inode, descriptor, most)
            finally:
                os.close(descriptor)
        raise failure

    def _hold_inside(self, inode: int, descriptor: int, most: int) -> int:
        """Enter a namespace and return a descriptor that is not of the mount that led to it.

        As long as one of a mount is open, umount(8) by anybody says that the target is busy.
        """
        visit = (inode, descriptor, partial(os.open, "/proc/thread-self/ns/net", OPEN))
        (held,) = self._visitor_now().visit([visit])
        if isinstance(held, OSError):
            raise held
        if held >= most:
            os.close(held)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return held

    def _let_go(self, inode: int) -> Namespace:
        known = self._known.pop(inode)
        self._chosen.discard(inode)  # the kernel may use the number again
        if known.descriptor >= 0:
            os.close(known.descriptor)
        if self._visitor is not None and self._visitor.inside == inode:
            self._visitor.close()
            self._visitor = None
        return known.namespace

    def _unseen(self) -> list[dict[str, str]]:
        items = [
            ("sockets of other network namespaces", known.namespace.why)
            for known in self._known.values()
            if known.namespace.why is not None
        ]
        if self._processes.denied and self.all:
            what = "network namespaces of other users' processes"
            items.append((what, "needs CAP_SYS_PTRACE over them"))
        new = [item for item in dict.fromkeys(items) if item not in self._told]
        self._told.update(new)
        return [{"what": what, "why": why} for what, why in new]

    def each(
        self, namespaces: Sequence[Namespace], action: Callable[[Namespace], T]
    ) -> list[T | OSError]:
        """Run an action inside each namespace and return what came of it, in the same order.

        Where entering or the action raises an OSError, that is returned; anything else is raised.
        Home's turn is first and in the calling thread. The others' are in a thread of its own, all
        in one round trip: there /proc/thread-self/net and /proc/sys/net are the namespace's, but
        /proc/net and /proc/self/net are home's. The thread blocks all signals.
        """
        outcomes: list[Any] = [None] * len(namespaces)
        visits: list[tuple[_Known, Callable[[], T]]] = []
        places = []
        for place, namespace in enumerate(namespaces):
            known = self._known.get(namespace.inode)
            if namespace.home:
                outcomes[place] = attempt(partial(action, namespace))
            elif known is None:
                outcomes[place] = FileNotFoundError(errno.ENOENT, "the network namespace is gone")
            elif known.error is not None:
                outcomes[place] = OSError(known.error.errno, known.namespace.why)
            else:
                visits.append((known, partial(action, namespace)))
                places.append(place)
        for place, outcome in zip(places, self._visit(visits), strict=True):
            outcomes[place] = outcome
        return outcomes

    def run(self, namespace: Namespace, action: Callable[[], T]) -> T:
        """Run one action inside a namespace; raises the OSError that `each` returns."""
        (outcome,) = self.each([namespace], lambda _: action())
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def _visit(self, visits: Sequence[tuple[_Known, Callable[[], T]]]) -> list[T | OSError]:
        if not visits:
            return []
        try:
            visitor = self._visitor_now()
        except OSError as error:
            return [error for _ in visits]
        return visitor.visit(
            [(known.namespace.inode, known.descriptor, action) for known, action in visits]
        )

    def _visitor_now(self) -> Visitor:
        """Return the thread that enters namespaces, started if need be. Raises OSError."""
        if self._visitor is None:
            try:
                self._visitor = Visitor()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, str(error)) from error
        return self._visitor

    def close(self) -> None:
        """Let go of every namespace."""
        for inode in list(self._known):
            self._let_go(inode)
        if self._visitor is not None:
            self._visitor.close()
            self._visitor = None
        self._mounts.close()
        self._processes.close()


def _inode_of(path: str, proc: int, what: str, missing: str) -> int:
    """Return the inode number of the network namespace a path leads to, below ``proc``."""
    try:
        descriptor = os.open(path, OPEN, dir_fd=proc)
    except (*GONE, NotADirectoryError) as error:
        raise NamespaceError(f"{what}: there is no such {missing}") from error
    except OSError as error:
        raise NamespaceError(f"{what}: {error.strerror}; needs root") from error
    try:
        if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != CLONE_NEWNET:
            raise NamespaceError(f"{what}: not a network namespace")
        return os.fstat(descriptor).st_ino
    except OSError as error:
        raise NamespaceError(f"{what}: not a network namespace") from error
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "needs root or CAP_SYS_ADMIN"
    return lack(error) or os.strerror(error.errno or errno.EIO)


def interface_names() -> dict[int, str]:
    """Return the interfaces of the namespace this thread is in: index → name."""
    return {index: decode(os.fsencode(name)) for index, name in socket.if_nameindex()}


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors as far as allowed; return what it was.

    A program that is started is to be given back the old one: select(2) takes none above 1023.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft
