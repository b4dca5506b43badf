"""The namespaces being recorded: the sockets that read them, and when it is whose turn.

Every dump of TCP walks the hash table of the whole host, so an empty namespace costs as much as a
full one. Therefore a namespace in which the kernel counts no socket is not dumped, of the others
each table of which it counts none only once in a while, and all together may take a share of the
interval: those past it wait for a later sample, the longest waiting first.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recorder.host.counters import Files, read_namespace
from recorder.host.limits import lack
from recorder.host.namespaces import RESERVED, Namespace, Namespaces, NamespacesStep
from recorder.kernel.closes import Closes
from recorder.kernel.tables import NO_COOKIES, NO_INODES, Reading, Step
from recorder.kernel.transport import (
    EVENTS_BUFFER,
    DiagSocket,
    connect_destroy,
    connect_diag,
    make_buffer,
)
from recorder.kernel.waiting import Waiting
from recorder.wire.netlink import Dump, Framing, Words

WHOLE_EVERY = 60
"""Samples after which also those tables are dumped of which the kernel counts no socket: that count
is compared with the dump."""

REOPENED_AFTER = 60
"""Readings after which the files of counters are opened again."""

FILES_SHARE = 8
"""What part of all descriptors may be files of counters: one in so many."""

UNCOUNTED = ("tcp", "netlink")
"""Tables with sockets that the kernel does not count."""

Result = TypeVar("Result")


@dataclass(eq=False)
class Place:
    """A namespace being recorded, and the means to read its tables."""

    namespace: Namespace
    diag: DiagSocket
    run: Callable[[Callable[[], bytes]], bytes]
    own: Mapping[str, int]
    """The sockets by which it is recorded, by protocol name."""
    cost: float = 0.0
    """CPU seconds of the latest dump of its tables."""
    cost_later: float = 0.0
    """What of it was for decoding, after all namespaces were read."""
    dumped: int = -1
    """Number of the latest sample that dumped it, or left it out as empty; -1 if none did."""
    whole: int = 0
    """Number of the latest sample that left out none of its tables."""
    uncounted: dict[str, npt.NDArray[np.uint32]] = field(default_factory=dict)
    """What was found last in each of the tables UNCOUNTED."""
    inodes: npt.NDArray[np.uint32] = field(default_factory=lambda: NO_INODES)
    """What the latest dump found, zeros and duplicates among them."""
    doubted: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)
    """Cookies of what a table had though the kernel counted none of it, in the latest sample."""
    in_use: Mapping[str, int] = field(default_factory=dict)
    """Sockets by protocol as the kernel counts them, ``used`` and ``tw``."""
    files: Files | None = None
    """Its counters, where descriptors are left to hold them."""
    readings: int = 0
    """How often its counters were read."""

    @property
    def inode(self) -> int:
        return self.namespace.inode

    @property
    def is_empty(self) -> bool:
        """Whether nothing but our own sockets and the kernel's can be in it.

        Every family's sockets are ``used`` in one place of the kernel, TIME-WAIT is not. That of
        TCP is counted apart, that of DCCP nowhere.
        """
        if "DCCP" in self.in_use:
            return False
        if self.namespace.home or self.in_use.get("used") != sum(self.own.values()):
            return False
        return not any(
            number for name, number in self.in_use.items() if name not in ("used", *self.own)
        )

    def skips(self, step: Step, sample: int) -> bool:
        """Whether a sample may leave out a table of which the kernel counts no socket.

        The kernel counts neither TCP sockets that are bound and nothing more, nor its own netlink
        sockets; those of the recorder's own namespace are seen in every sample, those of others in
        every whole one.
        """
        if sample >= self.whole + WHOLE_EVERY or step.name in self.doubted:
            return False
        if self.namespace.home and (self.dumped < 0 or step.name in UNCOUNTED):
            return False
        return step.is_empty(self.in_use, self.own)

    def compare(self, step: Step, reading: Reading) -> int:
        """Return how many sockets prove that the kernel's count of none is wrong.

        They were there before it was counted and are there after. One that was made after it was
        counted proves nothing.
        """
        before = self.doubted.pop(step.name, NO_COOKIES)
        if not step.is_empty(self.in_use, self.own):
            return 0
        own = sum(self.own.get(name, 0) for name in step.counted)
        there = reading.counted()
        lived = int(np.isin(there, before).sum())
        if lived > own:
            return lived - own
        if there.size > own:
            self.doubted[step.name] = there
        return 0

    def close(self) -> None:
        """Close all that was opened in the namespace, as it keeps it."""
        self.diag.close()
        self.let_go_of_files()

    def let_go_of_files(self) -> None:
        """Close the files of its counters; they are opened again when they are read."""
        if self.files is not None:
            self.files.close()
            self.files = None

    def dump(
        self,
        kind: int,
        body: bytes,
        decode: Callable[[Words, Framing, Dump], None],
        waiting: Waiting | None = None,
    ) -> Dump:
        """Dump a table of sock_diag."""
        return self.diag.dump(kind, body, decode, waiting)

    def read_file(self, name: str) -> bytes:
        """Return a file below /proc/net. Raises OSError."""
        return self.run(lambda: Path(f"/proc/thread-self/net/{name}").read_bytes())


class Places:
    """All namespaces being recorded, as they come and go."""

    def __init__(
        self,
        namespaces: Namespaces,
        closes: Closes | None,
        closes_buffer: int = EVENTS_BUFFER,
        connect: Callable[[], tuple[socket.socket, int]] = connect_diag,
    ) -> None:
        """``closes`` gets a socket of each namespace, with a buffer of that many bytes.

        ``connect``, called in a namespace, makes the socket for its dumps and tells its port.
        """
        self._namespaces = namespaces
        self._closes = closes
        self._closes_buffer = closes_buffer
        self._connect = connect
        self._buffer = make_buffer()
        self._places: dict[int, Place] = {}
        self._made = 0
        self._leaving: list[int] = []
        self.left: list[int] = []
        """Namespaces that vanished an update ago. The kernel announces closes late, so their
        events were received until now; the next take has the last of them."""
        self._failed: dict[int, Namespace] = {}  # entered, but no socket could be opened
        self._news: list[tuple[bool, Namespace, bool]] = []  # (came, which, entered) in order
        self._since: dict[int, int] = {}
        self._unseen: list[tuple[str, str]] = []

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, inode: int) -> bool:
        return inode in self._places

    def __getitem__(self, inode: int) -> Place:
        return self._places[inode]

    @property
    def complete(self) -> bool:
        """Whether every namespace of the host is recorded."""
        return self._namespaces.all and len(self) == len(self._namespaces.current)

    @property
    def oldest(self) -> int:
        """Number of the sample since which every namespace was dumped; -1 if one never was."""
        return min((place.dumped for place in self), default=-1)

    def close(self) -> None:
        """Close every socket and let go of the namespaces."""
        for place in self._places.values():
            place.close()
        self._places.clear()
        self._namespaces.close()

    def update(self) -> NamespacesStep:
        """Find the namespaces of this moment; open sockets in new ones, close those of dead ones.

        ``rows`` and ``take_unseen`` tell what was found.
        """
        self.left, self._leaving = self._leaving, []
        for inode in self.left:
            if self._closes is not None:
                self._closes.remove(inode)
        step = self._namespaces.update()
        self._tell(False, *step.vanished, *(before for before, _ in step.changed))
        for namespace in step.vanished:
            place = self._places.pop(namespace.inode, None)
            if place is not None:
                place.close()
                self._leaving.append(namespace.inode)
            self._failed.pop(namespace.inode, None)
        for _, after in step.changed:
            if after.inode in self._places:
                self._places[after.inode].namespace = after
            elif after.inode in self._failed:
                self._failed[after.inode] = after
        self._unseen += [(item["what"], item["why"]) for item in step.unseen]
        again = list(self._failed.values())
        seen = {namespace.inode for namespace in again}
        entered = [*step.appeared, *(after for _, after in step.changed)]
        new = [n for n in entered if n.entered and n.inode not in (self._places.keys() | seen)]
        opened = self._namespaces.each([*again, *new], self._open)
        for namespace, error in zip([*again, *new], opened, strict=True):
            if isinstance(error, OSError):
                self._failed[namespace.inode] = namespace
                what = f"sockets of network namespace {namespace.inode}"
                self._unseen.append(
                    (what, f"no socket in it: {lack(error) or error.strerror or error}")
                )
            elif namespace.inode in self._failed:
                self._tell(False, namespace)
                del self._failed[namespace.inode]
                self._tell(True, namespace)
        self._tell(True, *step.appeared, *(after for _, after in step.changed))
        return step

    def _tell(self, come: bool, *namespaces: Namespace) -> None:
        """Note for ``rows`` that namespaces came or went."""
        for namespace in namespaces:
            entered = namespace.entered and namespace.inode not in self._failed
            self._news.append((come, namespace, entered))

    def take_unseen(self) -> list[tuple[str, str]]:
        """Return what could not be seen, and why, since the last call."""
        unseen, self._unseen = self._unseen, []
        return unseen

    def again(self) -> None:
        """Have ``rows`` tell of all that are there, as if they had just come."""
        told = {namespace.inode for come, namespace, _ in self._news if come}
        self._tell(True, *(n for n in self._namespaces.current if n.inode not in told))

    def rows(self, sample_us: int) -> Iterator[dict[str, object]]:
        """Return the rows of ``namespaces`` for what came and went since the last call."""
        for come, namespace, entered in self._news:
            row: dict[str, object] = {
                "netns": namespace.inode,
                "name": ",".join(namespace.names) or None,
                "pid": namespace.pid,
                "start_us": namespace.start_us,
                "comm": namespace.comm,
                "home": int(namespace.home),
                "entered": int(entered),
            }
            if come:
                since = self._since.setdefault(namespace.inode, sample_us)
                yield row | {"valid_from": since}
            else:
                since = self._since.pop(namespace.inode, sample_us)
                yield row | {"valid_from": since, "valid_to": sample_us}
        self._news = []

    def _open(self, namespace: Namespace) -> None:
        """Open the sockets of a namespace, in which the calling thread is."""
        with ExitStack() as undo:
            first = self._connect()
            undo.callback(first[0].close)
            own = 1
            if self._closes is not None:
                events = connect_destroy(self._closes_buffer)
                most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED
                if events.fileno() >= most and not namespace.home:
                    events.close()  # some are to be left for everything else
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._closes.add(namespace.inode, events)
                own = 2
            undo.pop_all()
        waiting = [first]

        def connect() -> tuple[socket.socket, int]:
            return waiting.pop() if waiting else self._namespaces.run(namespace, self._connect)

        self._made += 1
        self._places[namespace.inode] = Place(
            namespace,
            DiagSocket(connect, self._buffer),
            lambda action: self._namespaces.run(namespace, action),
            {"NETLINK": own},
            whole=-(self._made % WHOLE_EVERY),  # that not all are whole in the same sample
        )

    def each(
        self, places: list[Place], action: Callable[[Namespace], Result]
    ) -> list[Result | OSError]:
        """Run an action inside each of the namespaces."""
        return self._namespaces.each([place.namespace for place in places], action)

    def read_counters(self, places: list[Place]) -> list[dict[str, bytes] | OSError]:
        """Read the files of counters of each of the namespaces.

        Those of others than the recorder's own are held open, as long as there are many more
        descriptors; they are opened again in turn, as some may be there that were not.
        """
        for place in places:
            if (place.readings + place.inode) % REOPENED_AFTER == 0:  # not all in one sample
                place.let_go_of_files()
            place.readings += 1
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FILES_SHARE

        def first(namespace: Namespace) -> dict[str, bytes]:
            if namespace.home:
                return read_namespace()
            try:
                files = Files()
            except OSError:  # one after another it may do, or fails for what is wrong
                return read_namespace()
            found = files.read()
            if files.highest >= most:
                files.close()
            else:
                self._places[namespace.inode].files = files
            return found

        closed = [place for place in places if place.files is None]
        read = dict(zip(closed, self.each(closed, first), strict=True))
        return [
            place.files.read() if place not in read and place.files is not None else read[place]
            for place in places
        ]

    def in_turn(self) -> list[Place]:
        """Return all, the recorder's own first, then those first that wait longest."""
        return sorted(self, key=lambda place: (not place.namespace.home, place.dumped))
