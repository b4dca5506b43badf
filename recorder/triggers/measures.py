"""What a trigger may watch: numbers of one sample, and counters that rise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

COUNTERS: Mapping[str, tuple[str, str]] = {
    "listen_overflows": ("TcpExt.ListenOverflows", "connections that found an accept queue full"),
    "listen_drops": ("TcpExt.ListenDrops", "connections that listeners dropped"),
    "retransmits": ("Tcp.RetransSegs", "segments sent again"),
    "attempt_fails": ("Tcp.AttemptFails", "connections that were not established"),
    "resets": ("Tcp.EstabResets", "established connections that were reset"),
    "time_wait_overflows": ("TcpExt.TCPTimeWaitOverflow", "TIME-WAIT that there was no room for"),
    "memory_aborts": ("TcpExt.TCPAbortOnMemory", "connections ended for want of TCP memory"),
    "udp_drops": ("Udp.RcvbufErrors", "datagrams dropped as the receive buffer was full"),
}
"""Words for counters of the kernel, summed over all namespaces; others go by their own name."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number of one sample; ``unit`` says by which suffixes it may be compared with."""

    unit: str
    doc: str
    of: Callable[[Seen], float]


@dataclass(frozen=True, slots=True)
class Words:
    """A column of words: the codes of the rows, and the words by their code."""

    codes: npt.NDArray[np.int64]
    words: tuple[str, ...]

    def are(self, word: str) -> npt.NDArray[np.bool_]:
        """Tell which rows have a word."""
        code = self.words.index(word) if word in self.words else -2
        found: npt.NDArray[np.bool_] = self.codes == code
        return found


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one batch of sockets, by the columns that are looked at."""

    state: Words
    tcp: npt.NDArray[np.bool_]
    recv_q: npt.NDArray[np.int64]
    send_q: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint64]


@dataclass(slots=True)
class Seen:
    """What one sample showed; ``waiting_s`` are the ages of connections in CLOSE-WAIT."""

    tables: list[Table]
    waiting_s: npt.NDArray[np.float64]
    counters: Mapping[str, float]


def _count(state: str) -> Callable[[Seen], float]:
    return lambda seen: float(
        sum(np.count_nonzero(t.tcp & t.state.are(state)) for t in seen.tables)
    )


def _most(values: Iterable[npt.NDArray[np.float64]]) -> float:
    return max((float(part.max()) for part in values if part.size), default=0.0)


def _queue(seen: Seen) -> float:
    return _most(
        100.0 * t.recv_q[door] / np.maximum(t.send_q[door], 1)
        for t in seen.tables
        for door in [t.tcp & t.state.are("LISTEN")]
    )


def _share(part: str, whole: str) -> Callable[[Seen], float]:
    def share(seen: Seen) -> float:
        most = seen.counters.get(whole, 0)
        return 100.0 * seen.counters.get(part, 0) / most if most else 0.0

    return share


GAUGES: Mapping[str, Gauge] = {
    "established": Gauge("", "TCP connections in ESTAB", _count("ESTAB")),
    "time_wait": Gauge("", "connections in TIME-WAIT", _count("TIME-WAIT")),
    "close_wait": Gauge("", "connections in CLOSE-WAIT", _count("CLOSE-WAIT")),
    "syn_recv": Gauge("", "connections in SYN-RECV", _count("SYN-RECV")),
    "syn_sent": Gauge("", "connections in SYN-SENT", _count("SYN-SENT")),
    "sockets": Gauge(
        "", "sockets of all kinds", lambda s: float(sum(t.tcp.size for t in s.tables))
    ),
    "close_wait_age": Gauge(
        "s",
        "for how long one connection has been seen in CLOSE-WAIT",
        lambda seen: _most([seen.waiting_s]),
    ),
    "accept_queue": Gauge("%", "the fullest accept queue, of its backlog", _queue),
    "send_queue": Gauge(
        "bytes",
        "the longest Send-Q of a TCP connection",
        lambda s: _most(
            (t.send_q * (t.tcp & ~t.state.are("LISTEN"))).astype(float) for t in s.tables
        ),
    ),
    "recv_queue": Gauge(
        "bytes",
        "the longest Recv-Q of a TCP connection",
        lambda s: _most(
            (t.recv_q * (t.tcp & ~t.state.are("LISTEN"))).astype(float) for t in s.tables
        ),
    ),
    "descriptors": Gauge(
        "%", "open files of the host, of as many as there may be", _share("allocated", "max")
    ),
    "conntrack": Gauge(
        "%", "entries of the connection table, of its limit", _share("conntrack", "conntrack_max")
    ),
}

_HELD = {
    ("file-nr", "allocated"): "allocated",
    ("file-nr", "max"): "max",
    ("nf_conntrack", "count"): "conntrack",
    ("nf_conntrack", "max"): "conntrack_max",
}


class Measures:
    """Takes what the watched measures need out of the batches of each sample."""

    def __init__(self, counters: Iterable[str], *, sockets: bool) -> None:
        """``counters`` are names of the kernel; ``sockets`` says whether any gauge is watched."""
        self._wanted = frozenset(counters)
        self._sockets = sockets
        self._values: dict[tuple[int, str], int] = {}
        self._held: dict[str, float] = {}
        self.risen = dict.fromkeys(self._wanted, 0)
        """By how much each counter has risen since the beginning, over all namespaces."""
        self._since: dict[int, float] = {}

    def take(self, batches: Iterable[tuple[str, pa.RecordBatch]], now: float) -> Seen:
        """Return what a sample shows at a time of a steady clock."""
        tables: list[Table] = []
        for name, batch in batches:
            if name == "counters":
                self._count(batch)
            elif name == "sockets" and self._sockets:
                tables.append(_table(batch))
        return Seen(tables, self._ages(tables, now), self._held)

    def _count(self, batch: pa.RecordBatch) -> None:
        names = batch.column("name")
        sources = batch.column("source")
        words, files = names.dictionary.to_pylist(), sources.dictionary.to_pylist()
        looked = {name for _, name in _HELD} | self._wanted
        codes = [code for code, word in enumerate(words) if word in looked]
        rows = np.flatnonzero(np.isin(np.asarray(names.indices), codes))
        for row in rows.tolist():
            name = words[names.indices[row].as_py()]
            source = files[sources.indices[row].as_py()]
            value = batch.column("value")[row].as_py()
            if held := _HELD.get((source, name)):
                self._held[held] = float(value or 0)
            if name not in self._wanted:
                continue
            key = (batch.column("netns")[row].as_py(), name)
            before = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
                if before is not None and value > before:
                    self.risen[name] += value - before

    def _ages(self, tables: Iterable[Table], now: float) -> npt.NDArray[np.float64]:
        keys = [t.key[t.tcp & t.state.are("CLOSE-WAIT")].tolist() for t in tables]
        self._since = {key: self._since.get(key, now) for part in keys for key in part}
        return np.array([now - since for since in self._since.values()], np.float64)


def _table(batch: pa.RecordBatch) -> Table:
    def words(name: str) -> Words:
        column = batch.column(name)
        codes = np.asarray(column.indices.cast(pa.int64()).fill_null(-1))
        return Words(codes, tuple(column.dictionary.to_pylist()))

    def numbers(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(batch.column(name).fill_null(0)).astype(np.int64)

    cookies = np.asarray(batch.column("cookie").fill_null(0)).astype(np.uint64)
    netns = np.asarray(batch.column("netns").fill_null(0)).astype(np.uint64)
    return Table(
        words("state"),
        words("netid").are("tcp"),
        numbers("recv_q"),
        numbers("send_q"),
        cookies ^ (netns << np.uint64(32)),
    )
