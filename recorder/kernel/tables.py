"""The kernel's tables: what ``-A`` may name, and the ways to read each of them.

The names are those of ss --query. A *step* reads one table of one namespace. It has several ways,
the best first; a way whose handler the kernel lacks makes place for the next, for good.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.diag import (
    netlink_diag,
    packet_diag,
    smc_diag,
    tipc_diag,
    unix_diag,
    vsock_diag,
    xdp_diag,
)
from recorder.diag.inet_diag import TCPDIAG_GETSOCK, InetDiag, request_tcp_both, request_v2
from recorder.diag.sock_diag import SOCK_DIAG_BY_FAMILY
from recorder.kernel.transport import CHUNK
from recorder.kernel.waiting import Waiting
from recorder.procnet.tables import ProcNet
from recorder.schema import SockrecError
from recorder.ssfilter import Filter
from recorder.ssfilter.bytecode import attribute, bytecode, states_mask
from recorder.wire.columns import Columns, Values
from recorder.wire.netlink import Dump, Framing, Outcome, Words

ASK_AGAIN = 60
"""Samples after which a table that could not be read in any way is tried again."""

IPPROTO_DCCP, IPPROTO_UDPLITE, IPPROTO_MPTCP = 33, 136, 262

NO_INODES = np.zeros(0, np.uint32)
NO_COOKIES = np.zeros(0, np.uint64)

_NOT_COUNTED = (3, 6, 7, 12, 13)
"""States in which the kernel does not count TCP: SYN-RECV, TIME-WAIT (which it counts apart), and
bound and nothing more."""

_STREAM, _DGRAM, _RAW, _SEQPACKET, _PACKET = (
    int(kind)
    for kind in (
        socket.SOCK_STREAM,
        socket.SOCK_DGRAM,
        socket.SOCK_RAW,
        socket.SOCK_SEQPACKET,
        10,  # SOCK_PACKET, obsolete
    )
)
_ANY = 0

Choice = frozenset[tuple[str, int]]
"""What to record: steps, and of unix, packet and vsock sockets their types."""


def _choice(*steps: str, types: Iterable[int] = (_ANY,)) -> Choice:
    return frozenset((step, kind) for step in steps for kind in types)


_UNIX = (_STREAM, _DGRAM, _SEQPACKET)
_PACKETS = (_RAW, _DGRAM, _PACKET)

_QUERIES: dict[str, Choice] = {
    "tcp": _choice("tcp"),
    "udp": _choice("udp", "udp6"),
    "raw": _choice("raw", "raw6"),
    "mptcp": _choice("mptcp", "mptcp6"),
    "sctp": _choice("sctp", "sctp6"),
    "dccp": _choice("dccp", "dccp6"),
    "udplite": _choice("udplite", "udplite6"),
    "ping": _choice("ping"),
    "unix": _choice("unix", types=_UNIX),
    "unix_stream": _choice("unix", types=[_STREAM]),
    "unix_dgram": _choice("unix", types=[_DGRAM]),
    "unix_seqpacket": _choice("unix", types=[_SEQPACKET]),
    "packet": _choice("packet", types=_PACKETS),
    "packet_raw": _choice("packet", types=[_RAW, _PACKET]),
    "packet_dgram": _choice("packet", types=[_DGRAM]),
    "netlink": _choice("netlink"),
    "vsock": _choice("vsock", types=_UNIX),
    "vsock_stream": _choice("vsock", types=[_STREAM]),
    "vsock_dgram": _choice("vsock", types=[_DGRAM]),
    "xdp": _choice("xdp"),
    "tipc": _choice("tipc"),
    "smc": _choice("smc"),
}
_ALIASES = {
    "u_str": "unix_stream",
    "u_dgr": "unix_dgram",
    "u_seq": "unix_seqpacket",
    "p_raw": "packet_raw",
    "p_dgr": "packet_dgram",
    "v_str": "vsock_stream",
    "v_dgr": "vsock_dgram",
}
_INET = ("tcp", "udp", "raw", "mptcp", "sctp", "dccp", "udplite", "ping")

EVERYTHING: Choice = frozenset[tuple[str, int]]().union(*_QUERIES.values())

QUERIES: Mapping[str, Choice] = {
    "all": EVERYTHING,
    "inet": frozenset[tuple[str, int]]().union(*(_QUERIES[name] for name in _INET)),
    **_QUERIES,
    **{alias: _QUERIES[name] for alias, name in _ALIASES.items()},
}
"""ss's names, and ping, udplite and smc, which ss does not show. ``all`` includes tipc."""


_OF_FAMILY = {
    "unix": frozenset({"unix"}),
    "link": frozenset({"packet"}),
    "netlink": frozenset({"netlink"}),
    "vsock": frozenset({"vsock"}),
}
"""The steps of families that a filter may name; those of internet sockets have all others."""

_COMPILED = ("tcp", "udp", "mptcp", "dccp", "udplite")
"""Tables of which the kernel compares what it shows: of SCTP it has other addresses, of raw sockets
ports."""


class QueryError(SockrecError):
    """A name of a table that does not exist, or no table left."""


def parse_query(text: str) -> Choice:
    """Return what a list such as ``tcp,unix_stream`` or ``!netlink`` names.

    A list that begins with a ``!name`` starts from all.
    """
    names = [name.strip() for name in text.split(",")]
    chosen = EVERYTHING if names[0].startswith("!") else Choice()
    for name in names:
        known = QUERIES.get(name.removeprefix("!"))
        if known is None:
            raise QueryError(f"{name!r} is no table; there are {', '.join(QUERIES)}")
        chosen = chosen - known if name.startswith("!") else chosen | known
    if not chosen:
        raise QueryError(f"{text!r} leaves no table to record")
    return chosen


def passing(choice: Choice, found: Filter) -> Choice:
    """Return what of a choice a filter may let through. Raises QueryError if that is nothing."""
    if found.family is None:
        return choice
    others = frozenset({"xdp", "tipc"}).union(*_OF_FAMILY.values())
    wanted = _OF_FAMILY.get(found.family)
    left = frozenset(
        (step, kind)
        for step, kind in choice
        if (step in wanted if wanted is not None else step not in others)
    )
    if not left:
        raise QueryError(f"{found.text!r} asks for {found.family} sockets, which it leaves out")
    return left


class Decoder(Protocol):
    """What makes columns of the rows of one kind of socket, of several dumps in a row."""

    columns: Columns

    def keep(self, rows: npt.NDArray[np.int64]) -> None: ...

    def rows(self) -> dict[str, Values | pa.Array]: ...


class DumpDecoder(Decoder, Protocol):
    """A decoder of sock_diag's messages."""

    def decode(self, words: Words, framing: Framing, dump: Dump) -> None: ...


class Reader(Protocol):
    """Where a step finds its table: the means to read one network namespace."""

    def dump(
        self,
        kind: int,
        body: bytes,
        decode: Callable[[Words, Framing, Dump], None],
        waiting: Waiting | None = None,
    ) -> Dump:
        """Have the table decoded, or added to what is waiting for that."""
        ...

    def read_file(self, name: str) -> bytes:
        """Return a file below /proc/net. Raises OSError."""
        ...


class Gathered:
    """The rows that one decoder gathers in a sample, namespace by namespace."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._netns: list[int] = []
        self._counts: list[int] = []

    def inodes(self, rows: slice, step: str) -> npt.NDArray[np.uint32]:
        """Return the inodes of some rows that processes may hold."""
        columns = self.decoder.columns
        inodes: npt.NDArray[np.uint32] = columns["inode"][rows].astype(np.uint32)
        if step == "netlink":
            held = columns["local_id"][rows] != 0  # the kernel's own have port id 0
            inodes = inodes[held]
        return inodes

    def counted(self, rows: slice, step: str) -> npt.NDArray[np.uint64]:
        """Return the cookies of those of some rows that the kernel's count has to have."""
        columns = self.decoder.columns
        cookies: npt.NDArray[np.uint64] = columns["cookie"][rows]
        kept = np.ones(cookies.size, np.bool_)
        if step == "tcp":
            kept = ~np.isin(columns["_state"][rows], _NOT_COUNTED)
        elif step == "netlink":
            kept = columns["local_id"][rows] != 0  # the kernel's own have 0
        return np.compress(kept, cookies)

    def begin(self) -> None:
        """Forget the sample before."""
        self.decoder.columns.clear()
        self._netns, self._counts = [], []

    def end_dumps(
        self, netns: Sequence[int], counts: Sequence[int], types: Iterable[int] | None
    ) -> tuple[list[int], list[int]]:
        """Take the last rows as those of namespaces; tell how many each has, and how many it had
        twice.

        The kernel may give a socket again while its tables change, and gives netlink sockets with
        groups twice. ``counts`` are the rows that were decoded of each, ``types`` the socket types
        to keep, None is all.
        """
        columns = self.decoder.columns
        start = columns.rows - sum(counts)
        cookies = columns["cookie"][start:]
        ordered = np.sort(cookies)
        rows, repeated = list(counts), [0] * len(counts)
        if types is not None or (ordered[1:] == ordered[:-1]).any():
            of = np.repeat(np.arange(len(counts)), counts)
            order = np.lexsort((cookies, of))
            same = (np.diff(cookies[order]) == 0) & (np.diff(of[order]) == 0)
            again = np.zeros(cookies.size, np.bool_)
            again[order[1:][same]] = True
            kept = ~again
            if types is not None:
                kept &= np.isin(columns["_type"][start:], list(types))
            if not kept.all():
                self.decoder.keep(np.concatenate([np.arange(start), np.flatnonzero(kept) + start]))
            rows, repeated = (
                np.bincount(of[b], minlength=len(rows)).tolist() for b in (kept, again)
            )
        self._netns += netns
        self._counts += rows
        return rows, repeated

    @property
    def rows(self) -> int:
        return self.decoder.columns.rows

    def netns(self) -> npt.NDArray[np.uint64]:
        """Return the namespace of each row."""
        return np.repeat(np.array(self._netns, np.uint64), self._counts)

    def add_empty(self, netns: int) -> None:
        """Note that a namespace has none of these sockets."""
        self._netns.append(netns)
        self._counts.append(0)

    def places(self) -> npt.NDArray[np.uint64]:
        """Return the namespaces whose rows are known, whether they gave any or not."""
        return np.unique(np.array(self._netns, np.uint64))


@dataclass
class DiagWay:
    """A table read by dump requests of sock_diag: (message type, body)."""

    gathered: Gathered
    decoder: DumpDecoder
    requests: Sequence[tuple[int, bytes]]
    waiting: Waiting = field(default_factory=Waiting)
    source = "diag"

    def read(self, reader: Reader) -> Dump:
        """Dump the table; what is small, of one request, may wait to be decoded."""
        decode = self.decoder.decode
        if len(self.requests) == 1:
            return reader.dump(*self.requests[0], decode, self.waiting)
        whole = Dump()
        parts = [reader.dump(kind, body, decode) for kind, body in self.requests]
        for part in parts:
            whole.bytes += part.bytes
            whole.bad += part.bad
            whole.count_unknown(part.unknown)
        outcomes = [part.outcome for part in parts]
        # without IPv6 the kernel has no handler for its half, and nothing is missing
        there = [outcome for outcome in outcomes if outcome.name != "unavailable"] or outcomes
        whole.outcome = next((outcome for outcome in there if outcome.name != "ok"), there[0])
        return whole


@dataclass
class ProcWay:
    """A table read from files of /proc/net; it is there if one of them is."""

    gathered: Gathered
    table: ProcNet
    source = "proc"

    def read(self, reader: Reader) -> Dump:
        dump = Dump()
        missing: OSError | None = None
        found = False
        for name in self.table.files:
            try:
                text = reader.read_file(name)
            except OSError as error:
                missing = error
                continue
            found = True
            dump.bytes += len(text)
            self.table.parse(name, text, dump)
        if not found and missing is not None:
            dump.outcome = Outcome.of_errno(missing.errno or 0, f"/proc/net/{self.table.files[0]}")
        elif dump.bad:
            dump.outcome = Outcome("corrupt", None, f"{dump.bad} broken lines left out")
        return dump


@dataclass
class Reading:
    """How one step went in one namespace. ``source`` is None if the table could not be read.

    What follows it is known when the step was finished.
    """

    dump: Dump
    source: str | None = None
    rows: int = 0
    inodes: npt.NDArray[np.uint32] = field(default_factory=lambda: NO_INODES)
    """What processes may hold of it, zeros and duplicates among them."""
    counted: Callable[[], npt.NDArray[np.uint64]] = lambda: NO_COOKIES
    """Returns the cookies of those that the kernel's count has, if it is right."""
    cpu_us: int = 0
    """Its share of what it took to finish the step."""


@dataclass
class Step:
    """Reads one table.

    ``counted`` are its protocols' names in /proc/net/protocols, none if they are not counted there
    or not all.
    """

    name: str
    ways: list[DiagWay | ProcWay]
    counted: tuple[str, ...]
    types: frozenset[int] | None = None
    read_in: dict[str, set[int]] = field(default_factory=dict)
    """The namespaces in which the table was read, by how."""
    why: str | None = None
    """Why not by the first of the ways, None if it was."""
    believed: bool = True
    """Whether the kernel's count was never found to be wrong."""
    _failed: Outcome | None = field(default=None, init=False)
    _asked: int = field(default=0, init=False)
    _waiting: list[tuple[int, Reading]] = field(default_factory=list, init=False)

    def begin(self) -> None:
        """Forget what a sample left waiting that was not finished."""
        if self._waiting:
            self._waiting = []
            for way in self.ways:
                if isinstance(way, DiagWay):
                    way.waiting.clear()

    def rests(self, sample: int) -> bool:
        """Whether nothing is asked in a sample, as no way has worked of late."""
        return self._failed is not None and sample - self._asked < ASK_AGAIN

    def read(self, reader: Reader, netns: int, sample: int) -> Reading:
        """Read the table of a namespace into the decoder of the first way that works.

        What a small one has is decoded, and known, when the step is finished.
        """
        if self._failed is not None and self.rests(sample):
            return Reading(Dump(self._failed))
        outcomes: list[Outcome] = []
        for place, way in enumerate(self.ways):
            start = way.gathered.rows
            dump = way.read(reader)
            outcomes.append(dump.outcome)
            if _is_missing(dump.outcome):
                way.gathered.decoder.columns.rows = start
                continue
            if place:
                self.finish()
                self.ways = self.ways[place:]
                self.why = self.why or outcomes[0].detail
            self.read_in.setdefault(way.source, set()).add(netns)
            self._failed = None
            reading = Reading(dump, way.source)
            if isinstance(way, DiagWay) and way.waiting.has(dump):
                self._waiting.append((netns, reading))
                if way.waiting.size > CHUNK:
                    self.finish()
            else:
                self._end(way, [(netns, reading)], [way.gathered.rows - start])
            return reading
        self._failed, self._asked = outcomes[0], sample
        self.why = outcomes[0].detail
        return Reading(Dump(outcomes[0]))

    def finish(self) -> None:
        """Decode what waits."""
        if not self._waiting:
            return
        way = self.ways[0]
        assert isinstance(way, DiagWay)
        began = time.process_time_ns()
        waiting, self._waiting = self._waiting, []
        size = way.waiting.size
        self._end(way, waiting, way.waiting.decode(way.decoder))
        took = (time.process_time_ns() - began) / 1000
        for _, reading in waiting:
            reading.cpu_us = round(took * reading.dump.bytes / size)

    def _end(
        self, way: DiagWay | ProcWay, ended: Sequence[tuple[int, Reading]], counts: list[int]
    ) -> None:
        """Tell of the dumps that were decoded last how many rows they have, and which."""
        gathered = way.gathered
        netns = [number for number, _ in ended]
        rows, repeated = gathered.end_dumps(netns, counts, self.types)
        start = gathered.rows - sum(rows)
        for (_, reading), count, again in zip(ended, rows, repeated, strict=True):
            mine = slice(start, start + count)
            reading.rows, reading.dump.repeated = count, again
            reading.inodes = gathered.inodes(mine, self.name)
            reading.counted = partial(gathered.counted, mine, self.name)
            start += count

    def skip(self, netns: int) -> None:
        """Leave out a namespace that has none of these sockets."""
        for way in self.ways:
            way.gathered.add_empty(netns)

    def is_empty(self, in_use: Mapping[str, int], own: Mapping[str, int]) -> bool:
        """Whether the kernel's own counts say that a namespace has no socket of this table.

        ``own`` are the sockets by which the namespace is recorded.
        """
        counted = False
        for name in self.counted:
            if name in in_use:
                counted = True
                if in_use[name] > own.get(name, 0):
                    return False
        return self.believed and counted


def _is_missing(outcome: Outcome) -> bool:
    """Whether the kernel does not know the request, rather than fail at it this once."""
    return outcome.name == "unavailable" or outcome.errno == errno.EINVAL


class Steps:
    """The steps of a sample in their order, and what they gather."""

    def __init__(
        self, choice: Choice, release: tuple[int, int], found: Filter | None = None
    ) -> None:
        """The kernel is asked for no more than what a filter may let through."""
        self._states = states_mask(found.states if found else None)
        code = bytecode(found) if found else b""
        self._no_inet = code is None
        self._code = attribute(code or b"")
        self._chosen: dict[str, set[int]] = {}
        for name, kind in choice:
            self._chosen.setdefault(name, set()).add(kind)
        self._all: dict[str, set[int]] = {}
        for name, kind in EVERYTHING:
            self._all.setdefault(name, set()).add(kind)
        self._gathered: dict[str, Gathered] = {}
        self.steps = [
            step
            for step in self._build(release)
            if step.name in self._chosen
            and not (self._no_inet and step.name.removesuffix("6") in _COMPILED)
        ]
        ways = [way for step in self.steps for way in step.ways]
        self.gathered = {
            key: gathered
            for key, gathered in self._gathered.items()
            if any(way.gathered is gathered for way in ways)
        }
        """By the name of the table (``udp`` is udp and udp6), or /proc/net/NAME."""

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def begin(self) -> None:
        """Forget the rows of the sample before."""
        for gathered in self.gathered.values():
            gathered.begin()
        for step in self.steps:
            step.begin()

    def finish(self) -> None:
        """Decode what waits."""
        for step in self.steps:
            step.finish()

    def _build(self, release: tuple[int, int]) -> Iterator[Step]:
        v4, v6 = socket.AF_INET, socket.AF_INET6
        tcp = InetDiag("tcp", release)
        yield self._step(
            "tcp",
            ("TCP", "TCPv6", "tw"),
            self._diag("tcp", tcp, (TCPDIAG_GETSOCK, request_tcp_both(self._states, self._code))),
            self._diag(
                "tcp",
                tcp,
                *(
                    _by_family(request_v2(family, socket.IPPROTO_TCP, self._states, self._code))
                    for family in (v4, v6)
                ),
            ),
        )
        for netid, protocol, names in (
            ("udp", socket.IPPROTO_UDP, ("UDP", "UDPv6")),
            ("mptcp", IPPROTO_MPTCP, ("MPTCP", "MPTCPv6")),
            ("raw", socket.IPPROTO_RAW, ("RAW", "RAWv6")),
            ("sctp", socket.IPPROTO_SCTP, ("SCTP", "SCTPv6")),
            ("dccp", IPPROTO_DCCP, ("DCCP", "DCCPv6")),
            ("udplite", IPPROTO_UDPLITE, ("UDP-Lite", "UDPLITEv6")),
        ):
            decoder = InetDiag(netid, release)
            counted: tuple[tuple[str, ...], tuple[str, ...]] = (names[:1], names[1:])
            if netid == "dccp" or (netid == "mptcp" and release < (6, 2)):
                counted = ((), ())  # DCCP's TIME-WAIT is in no count; of MPTCP it was always 0
            elif netid == "sctp":  # in /proc one of SCTPv6 is of IPv4 if its addresses are
                counted = (names, names)
            for name, family, protocols in zip(
                (netid, f"{netid}6"), (v4, v6), counted, strict=True
            ):
                asked = (self._states, self._code) if netid in _COMPILED else ()
                request = _by_family(request_v2(family, protocol, *asked))
                yield self._step(name, protocols, self._diag(netid, decoder, request))
        yield self._step("ping", ("PING", "PINGv6"))
        for name, decoder_, request_all, counted_ in (
            ("unix", unix_diag.UnixDiag(), unix_diag.request_all, ("UNIX", "UNIX-STREAM")),
            ("packet", packet_diag.PacketDiag(), packet_diag.request_all, ("PACKET",)),
            ("netlink", netlink_diag.NetlinkDiag(), netlink_diag.request_all, ("NETLINK",)),
            ("vsock", vsock_diag.VsockDiag(), vsock_diag.request_all, ()),
            ("xdp", xdp_diag.XdpDiag(), xdp_diag.request_all, ("XDP",)),
            ("tipc", tipc_diag.TipcDiag(), tipc_diag.request_all, ()),
            ("smc", smc_diag.SmcDiag(), smc_diag.request_all, ("SMC", "SMC6")),
        ):
            yield self._step(name, counted_, self._diag(name, decoder_, _by_family(request_all())))

    def _diag(self, key: str, decoder: DumpDecoder, *requests: tuple[int, bytes]) -> DiagWay:
        if key not in self._gathered:
            self._gathered[key] = Gathered(decoder)
        return DiagWay(self._gathered[key], decoder, requests)

    def _step(self, name: str, counted: tuple[str, ...], *ways: DiagWay) -> Step:
        every: list[DiagWay | ProcWay] = list(ways)
        if name in ProcNet.names:
            table = ProcNet(name)
            gathered = self._gathered[f"/proc/net/{name}"] = Gathered(table)
            every.append(ProcWay(gathered, table))
        types = self._chosen.get(name, set())
        only = None if types == self._all[name] else frozenset(types)
        return Step(name, every, counted, only)


def _by_family(body: bytes) -> tuple[int, bytes]:
    return SOCK_DIAG_BY_FAMILY, body


def describe(choice: Choice) -> list[str]:
    """Return the names of ss --query that make up a choice, none of them twice."""
    names: list[str] = []
    left: set[tuple[str, int]] = set(choice)
    for name, part in _QUERIES.items():
        if part <= left:
            names.append(name)
            left -= part
    return names
