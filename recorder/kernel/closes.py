"""The kernel's announcements of closed TCP and UDP sockets: received by a thread, taken in bulk."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag.inet_diag import InetDiag
from recorder.diag.sock_diag import SOCK_DIAG_BY_FAMILY
from recorder.schema import CLOSES
from recorder.wire.columns import Values, code_words
from recorder.wire.netlink import HEADER, PAD, Dump, Framing

PAUSE_S = 0.01
"""Events are received this long after the first at the latest: one wake for many."""

SLOT = 640
"""Room for one event, which has 380 bytes on Linux 6.18: tcp_info may grow by half."""

BLOCK_EVENTS = 2048
MOST_BLOCKS = 64
"""What these blocks do not hold waits in the kernel, which counts what it drops."""

_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8
_NETIDS = ["tcp", "udp"]


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr, the msghdr in it spelled out."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.c_void_p),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("_padding", ctypes.c_int),  # msghdr ends at a multiple of 8
        ("received", ctypes.c_uint),
    )


def _load_recvmmsg() -> Callable[[int, int, int, int, None], int]:
    """Return recvmmsg(2).

    It is not for its speed, which is twice that of one recv each: a thread that lets go of the
    interpreter's lock for each event waits for it each time, and under a busy main thread 2,000
    events took it 2 s instead of 30 ms.
    """
    function = ctypes.CDLL(None, use_errno=True).recvmmsg
    function.restype = ctypes.c_int
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_void_p,
    )
    return function


class _Block:
    """Room for events, each in a slot of its own, so that all their places are known at once."""

    def __init__(self) -> None:
        self.words = np.zeros((BLOCK_EVENTS * SLOT + PAD) // 4, np.uint32)
        self.used = 0
        slots = np.arange(BLOCK_EVENTS, dtype=np.uint64)
        self._vectors = np.zeros(BLOCK_EVENTS, np.dtype(_Vector))
        self._vectors["base"] = self.words.ctypes.data + slots * SLOT
        self._vectors["length"] = SLOT
        self._messages = np.zeros(BLOCK_EVENTS, np.dtype(_Message))
        self._messages["vector"] = self._vectors.ctypes.data + slots * self._vectors.itemsize
        self._messages["vector_length"] = 1

    @property
    def free(self) -> int:
        return BLOCK_EVENTS - self.used

    @property
    def next_message(self) -> int:
        """Address of the mmsghdr of the first free slot."""
        return self._messages.ctypes.data + self.used * self._messages.itemsize

    def framing(self) -> tuple[Framing, npt.NDArray[np.bool_]]:
        """Return the messages, and which of the slots used hold a whole one."""
        start = np.arange(self.used) * SLOT
        length = self.words[start >> 2].astype(np.int64)
        kind = self.words[(start >> 2) + 1] & 0xFFFF
        whole = (length >= HEADER) & (length <= self._messages["received"][: self.used])
        whole &= (length <= SLOT) & (kind == SOCK_DIAG_BY_FAMILY)
        start, length = start[whole], length[whole]
        return Framing(start + HEADER, start + length), whole


@dataclass
class _Source:
    """The socket of one namespace."""

    netns: int
    socket: socket.socket
    drops: int


@dataclass
class Taken:
    """The N events since the last take, in the order received by namespace.

    ``netns`` is u64[N], ``time_us`` i64[N]: when the event was received (UTC), which is later than
    the close by up to PAUSE_S, more only if the machine has no time for the thread. ``lost`` has
    an entry for each namespace, and counts what the kernel dropped; ``events`` has one for each
    namespace with events. The decoder's columns are valid until the next take.
    """

    netns: npt.NDArray[np.uint64]
    time_us: npt.NDArray[np.int64]
    decoder: InetDiag
    dump: Dump
    lost: dict[int, int]
    events: dict[int, int]

    @property
    def tcp(self) -> npt.NDArray[np.bool_]:
        """Which are TCP, bool[N]."""
        tcp: npt.NDArray[np.bool_] = self.decoder.columns["protocol"] == socket.IPPROTO_TCP
        return tcp

    @property
    def connection(self) -> npt.NDArray[np.bool_]:
        """Which are TCP connections or sent a SYN to become one, bool[N].

        Such a socket has sent or received segments. When it is reset by its own end, or failed to
        connect, the kernel clears those counters, but moves its next sequence number away from the
        acknowledged one (tcp_disconnect), which shows as a send queue. A listener, or a socket
        that never connected, has neither.
        """
        columns = self.decoder.columns
        some: npt.NDArray[np.bool_] = (
            (columns["segs_in"] != 0) | (columns["segs_out"] != 0) | (columns["send_q"] != 0)
        )
        return some & self.tcp

    def columns(self) -> dict[str, Values | pa.Array]:
        """Return the columns of the closes table but those of sample, device and owner."""
        columns = self.decoder.columns
        tcp = self.tcp
        udp = columns["protocol"] == socket.IPPROTO_UDP
        rows = self.decoder.rows()
        result = {name: rows[name] for name in CLOSES.names if name in rows}
        return result | {
            "time": Values(self.time_us),
            "netns": Values(self.netns),
            "netid": code_words(udp.astype(np.int8), _NETIDS, tcp | udp),
            "send_q": Values(columns["send_q"], tcp),
            "connection": Values(self.connection.view(np.uint8)),
        }


@dataclass
class _Pending:
    """What was received and not yet taken."""

    blocks: list[_Block] = field(default_factory=list)
    runs: list[tuple[int, int, int]] = field(default_factory=list)  # netns, time, events
    lost: Counter[int] = field(default_factory=Counter)


class Closes:
    """Receives the events of many network namespaces from its construction to ``close``.

    An own thread empties the sockets. It takes the signal mask of the thread that makes this. All
    methods may be called by one thread. Making one raises OSError, of EAGAIN without a thread.
    """

    def __init__(
        self,
        release: tuple[int, int],
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._decoder = InetDiag("tcp", release)
        self._now_us = now_us
        self._receive = _load_recvmmsg()
        self._sources: dict[int, _Source] = {}  # by descriptor
        self._pending = _Pending()
        self._spare: list[_Block] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._epoll = select.epoll()
        self._wake, self._woken = socket.socketpair()
        self._epoll.register(self._woken.fileno(), select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="sockrec-closes", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._release()
            raise OSError(errno.EAGAIN, str(error)) from error

    def add(self, netns: int, events: socket.socket) -> None:
        """Receive the events of a namespace by a socket of ``transport.connect_destroy``.

        The socket belongs to this object from now on.
        """
        self.remove(netns)
        try:
            self._epoll.register(events.fileno(), select.EPOLLIN)
        except OSError:
            events.close()
            raise
        with self._lock:
            self._sources[events.fileno()] = _Source(netns, events, _drops(events))

    def remove(self, netns: int) -> None:
        """Receive what is left of a namespace, for the next take, and nothing after."""
        with self._lock:
            for descriptor, source in list(self._sources.items()):
                if source.netns == netns:
                    self._drain(source, most_blocks=None)
                    self._count_lost(source)
                    del self._sources[descriptor]
                    self._epoll.unregister(descriptor)
                    source.socket.close()

    def take(self) -> Taken:
        """Return all events received since the last take, those still in the kernel included."""
        with self._lock:
            for source in self._sources.values():
                self._drain(source, most_blocks=None)
                self._count_lost(source)
            pending, self._pending = self._pending, _Pending()
        taken = self._decode(pending)
        self._spare = pending.blocks[:MOST_BLOCKS]
        for block in self._spare:
            block.used = 0
        return taken

    @property
    def waiting(self) -> int:
        """How many events were received since the last take."""
        with self._lock:
            return sum(block.used for block in self._pending.blocks)

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._stop.set()
        self._wake.send(b"\0")
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._epoll.close()
        for closing in (self._wake, self._woken, *(s.socket for s in self._sources.values())):
            closing.close()
        self._sources.clear()

    def _run(self) -> None:
        while not self._stop.is_set():
            ready = self._epoll.poll()
            with self._lock:
                for descriptor, _ in ready:
                    source = self._sources.get(descriptor)
                    if source is not None:
                        self._drain(source, most_blocks=MOST_BLOCKS)
            self._stop.wait(PAUSE_S)

    def _drain(self, source: _Source, most_blocks: int | None) -> None:
        """Receive until nothing is left, or until that many blocks are full."""
        pending = self._pending
        descriptor = source.socket.fileno()
        while True:
            if not pending.blocks or not pending.blocks[-1].free:
                if len(pending.blocks) == most_blocks:
                    return
                pending.blocks.append(self._spare.pop() if self._spare else _Block())
            block = pending.blocks[-1]
            asked = block.free
            count = self._receive(descriptor, block.next_message, asked, socket.MSG_DONTWAIT, None)
            if count < 0:
                number = ctypes.get_errno()
                if number in (errno.ENOBUFS, errno.EINTR):
                    continue  # dropped events are counted by the socket
                return  # EAGAIN, or the kernel is short of memory: what is left comes next time
            block.used += count
            pending.runs.append((source.netns, self._now_us(), count))
            if count < asked:
                return

    def _count_lost(self, source: _Source) -> None:
        drops = _drops(source.socket)
        self._pending.lost[source.netns] += (drops - source.drops) % (1 << 32)
        source.drops = drops

    def _decode(self, pending: _Pending) -> Taken:
        columns = self._decoder.columns
        columns.clear()
        dump = Dump()
        kept = [self._decode_block(block, dump) for block in pending.blocks]
        rows = np.concatenate(kept) if kept else np.zeros(0, np.bool_)
        netns, times, counts = (
            np.array([run[part] for run in pending.runs], kind)
            for part, kind in enumerate((np.uint64, np.int64, np.int64))
        )
        events: Counter[int] = Counter()
        for number, _, count in pending.runs:
            events[number] += count
        return Taken(
            np.repeat(netns, counts)[rows].astype(np.uint64),
            np.repeat(times, counts)[rows].astype(np.int64),
            self._decoder,
            dump,
            dict(pending.lost),
            dict(events),
        )

    def _decode_block(self, block: _Block, dump: Dump) -> npt.NDArray[np.bool_]:
        """Append the events of a block and return which of its slots have a row."""
        columns, words = self._decoder.columns, block.words
        framing, whole = block.framing()
        before = columns.rows
        dump.bytes += int((framing.ends - framing.offsets).sum()) + HEADER * framing.offsets.size
        dump.bad += int(whole.size - framing.offsets.size)
        attempt = Dump()
        self._decoder.decode(words, framing, attempt)
        if columns.rows - before == framing.offsets.size:
            dump.count_unknown(attempt.unknown)
            return whole
        columns.rows = before
        for slot in np.flatnonzero(whole).tolist():
            at = np.searchsorted(framing.offsets, slot * SLOT + HEADER)
            one = Framing(framing.offsets[at : at + 1], framing.ends[at : at + 1])
            rows = columns.rows
            self._decoder.decode(words, one, dump)
            whole[slot] = columns.rows > rows
        return whole


def _drops(events: socket.socket) -> int:
    """Return how many events the kernel has dropped as the buffer was full, modulo 2³²."""
    with contextlib.suppress(OSError):  # SO_MEMINFO is of Linux 4.12
        raw = events.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1))
        return int(struct.unpack_from("=I", raw, 4 * _SK_MEMINFO_DROPS)[0])
    return 0
