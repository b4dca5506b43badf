"""Owners and connections remembered by cookie, against a plain model and by single rules."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.owners.carry import BY, GENERATIONS, Carry, Closed, Observed
from recorder.owners.holders import Holders

ESTAB, SYN_SENT, SYN_RECV, FIN_WAIT2, TIME_WAIT, CLOSE, LISTEN = 1, 2, 3, 5, 6, 7, 10
BRIEF, UNCONNECTED = (SYN_RECV, TIME_WAIT, 12), (CLOSE, LISTEN, 13)
UNKNOWN = (-1, -1, 0, 0)

Owner = tuple[int, int, int, int]
"""slot, fd, holders, verified_us."""


@dataclass(frozen=True)
class Row:
    """A row of a dump, or a close event."""

    cookie: int
    netns: int = 1
    state: int = ESTAB
    timewait: bool = False
    inode: int = 0
    addr: str = "127.0.0.1"
    port: int = 80
    held: Owner = UNKNOWN
    connection: bool = True
    tcp: bool = True

    @property
    def key(self) -> tuple[int, int]:
        return self.netns, self.cookie

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.addr else socket.AF_INET


def observe(
    carry: Carry, rows: Sequence[Row], step: str = "tcp", dumped: Iterable[int] | None = None
) -> Observed:
    held = np.array([row.held for row in rows], np.int64).reshape(-1, 4)
    return carry.observe(
        step,
        netns=np.array([row.netns for row in rows], np.uint64),
        cookies=np.array([row.cookie for row in rows], np.uint64),
        state=np.array([row.state for row in rows], np.uint8),
        timewait=np.array([row.timewait for row in rows], np.bool_),
        inode=np.array([row.inode for row in rows], np.uint32),
        family=np.array([row.family for row in rows], np.uint8),
        local_port=np.array([row.port for row in rows], np.uint16),
        local_addr=addresses(rows),
        held=Holders(
            held[:, 0].astype(np.int32),
            held[:, 1].astype(np.int32),
            held[:, 2].astype(np.int32),
            held[:, 3],
        ),
        dumped=np.array(sorted({row.netns for row in rows} if dumped is None else dumped), "u8"),
    )


def close(carry: Carry, *rows: Row) -> Closed:
    return carry.closed(
        netns=np.array([row.netns for row in rows], np.uint64),
        cookies=np.array([row.cookie for row in rows], np.uint64),
        connection=np.array([row.connection and row.tcp for row in rows], np.bool_),
        tcp=np.array([row.tcp for row in rows], np.bool_),
        family=np.array([row.family for row in rows], np.uint8),
        local_port=np.array([row.port for row in rows], np.uint16),
        local_addr=addresses(rows),
    )


def addresses(rows: Sequence[Row]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    packed = [ipaddress.ip_address(row.addr).packed.ljust(16, b"\0") for row in rows]
    return np.array(packed, "V16")


def answer(seen: Observed) -> list[tuple[Owner, int, bool]]:
    columns = (seen.slot, seen.fd, seen.holders, seen.verified_us, seen.by, seen.opened)
    return [(row[:4], row[4], row[5]) for row in zip(*(c.tolist() for c in columns), strict=True)]


def owners(seen: Observed) -> list[tuple[int, str]]:
    return [
        (slot, BY[by] if by >= 0 else "unknown")
        for slot, by in zip(seen.slot.tolist(), seen.by.tolist(), strict=True)
    ]


# The model


@dataclass
class Remembered:
    owner: Owner = UNKNOWN
    heard: bool = False
    counted: bool = False
    closed: bool = False
    brief: bool = False
    left: int = 0

    def by(self) -> str:
        return "unknown" if self.owner[0] < 0 else "listener" if self.heard else "carried"


@dataclass
class Model:
    """The same as Carry, with a dictionary and one socket at a time."""

    most_left: int
    tables: dict[str, dict[tuple[int, int], Remembered]] = field(default_factory=dict)
    left: dict[tuple[int, int], Remembered] = field(default_factory=dict)
    brief: dict[tuple[int, int], Remembered] = field(default_factory=dict)
    listeners: list[tuple[Row, Owner]] = field(default_factory=list)
    generations: dict[str, int] = field(default_factory=dict)
    forgotten: dict[int, int] = field(default_factory=dict)
    sampled: list[bool] = field(default_factory=list)

    def observe(
        self, step: str, rows: Sequence[Row], dumped: set[int]
    ) -> list[tuple[Owner, int, bool]]:
        self.generations[step] = generation = self.generations.get(step, 0) + 1
        for netns, when in list(self.forgotten.items()):
            if netns in dumped or when < generation - GENERATIONS:
                self.forget_now(netns)
        self.brief = {
            key: known
            for key, known in self.brief.items()
            if step != "tcp" or known.left > generation - GENERATIONS
        }
        before = self.tables.get(step, {})
        after = {row.key: self.recall(before, row.key) for row in rows}
        for key, known in before.items():
            if key in after:
                continue
            if key[0] not in dumped:
                after[key] = known
            elif known.brief:
                if not known.closed:
                    known.left = generation
                    self.brief[key] = known
            elif not known.closed:
                self.left[key] = known
        while len(self.left) > self.most_left:
            del self.left[next(iter(self.left))]
        self.tables[step] = after
        answers = []
        for row in rows:
            known = after[row.key]
            if row.held[0] >= 0:
                known.owner, known.heard, by = row.held, False, "fd"
            else:
                by = known.by()
            opened = False
            if step == "tcp":
                known.brief = row.timewait or row.state in BRIEF
                connected = not known.brief and row.state not in UNCONNECTED
                opened = connected and not known.counted
                known.counted |= connected
            answers.append((known.owner, by, opened))
        if step != "tcp":
            return [self.coded(*answer) for answer in answers]
        listening = [
            (row, owner)
            for row, (owner, by, _) in zip(rows, answers, strict=True)
            if row.state == LISTEN and by in ("fd", "carried")
        ]
        self.listeners = [
            *listening,
            *((row, owner) for row, owner in self.listeners if row.netns not in dumped),
        ]
        for place, (row, (owner, by, opened)) in enumerate(zip(rows, answers, strict=True)):
            if by not in ("fd", "carried") and not row.inode and row.state != LISTEN:
                known = after[row.key]
                known.owner, by = self.listener(row, owner, by)
                known.heard = by == "listener"
                answers[place] = (known.owner, by, opened)
        return [self.coded(*answer) for answer in answers]

    def closed(self, rows: Sequence[Row]) -> list[tuple[Owner, int, bool]]:
        answers = []
        self.sampled = []
        for row in rows:
            found = [table[row.key] for table in self.tables.values() if row.key in table]
            for known in found:
                known.closed = True
            found += [left.pop(row.key) for left in (self.left, self.brief) if row.key in left]
            known = found[0] if found else Remembered()
            self.sampled.append(bool(found))
            connection = row.connection and row.tcp
            owner, by = known.owner, known.by()
            if connection and by != "carried":
                owner, by = self.listener(row, owner, by)
            answers.append(self.coded(owner, by, connection and not known.counted))
        for netns in list(self.forgotten):
            self.forget_now(netns)
        return answers

    def forget(self, netns: int) -> None:
        self.forgotten[netns] = max(self.generations.values(), default=0)

    def forget_now(self, netns: int) -> None:
        del self.forgotten[netns]
        for known in (*self.tables.values(), self.left, self.brief):
            for key in [key for key in known if key[0] == netns]:
                del known[key]
        self.listeners = [held for held in self.listeners if held[0].netns != netns]

    def recall(self, before: dict[tuple[int, int], Remembered], key: tuple[int, int]) -> Remembered:
        for known in (before, self.left, self.brief):
            if key in known:
                return replace(known[key]) if known is before else known.pop(key)
        return Remembered()

    def listener(self, row: Row, owner: Owner, by: str) -> tuple[Owner, str]:
        wanted = [row.addr, "0.0.0.0" if row.family == socket.AF_INET else "::"]
        if row.addr.startswith("::ffff:"):
            wanted.insert(1, "::ffff:0.0.0.0")
        for addr in wanted:
            for listening, (slot, _, _, verified_us) in self.listeners:
                if (listening.netns, listening.port, listening.addr) == (row.netns, row.port, addr):
                    return (slot, -1, 0, verified_us), "listener"
        return owner, by

    def slots(self) -> list[int]:
        known = [
            k for table in (*self.tables.values(), self.left, self.brief) for k in table.values()
        ]
        slots = {k.owner[0] for k in known} | {owner[0] for _, owner in self.listeners}
        return sorted(slots - {-1})

    @staticmethod
    def coded(owner: Owner, by: str, opened: bool) -> tuple[Owner, int, bool]:
        return owner, BY.index(by) if by in BY else -1, opened


NAMESPACES = st.sampled_from([1, 2, 4026531840])
ADDRESSES = st.sampled_from(
    ["127.0.0.1", "10.0.0.1", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
)
HELD = st.builds(lambda slot, fd, us: (slot, fd, 1 + fd % 3, us), *[st.integers(0, 5)] * 3)


def rows_of(cookies: st.SearchStrategy[int], netns: st.SearchStrategy[int]) -> st.SearchStrategy:
    row = st.builds(
        Row,
        cookie=cookies,
        netns=netns,
        state=st.sampled_from([ESTAB, ESTAB, SYN_SENT, FIN_WAIT2, *BRIEF, *UNCONNECTED]),
        timewait=st.sampled_from([False, False, False, True]),
        inode=st.sampled_from([0, 7]),
        addr=ADDRESSES,
        port=st.sampled_from([80, 81]),
        held=st.just(UNKNOWN) | HELD,
        connection=st.booleans(),
        tcp=st.booleans(),
    )
    return st.lists(row, max_size=12, unique_by=lambda row: row.key)


TCP_COOKIES = st.integers(1, 9) | st.sampled_from([2**40, 1 << 63 | 5])
UDP_COOKIES = st.integers(20, 23)


@st.composite
def operations(draw: st.DrawFn) -> tuple[str, str, list[Row], set[int]]:
    what = draw(st.sampled_from(["tcp", "tcp", "tcp", "udp", "closed", "closed", "forget"]))
    if what == "closed":
        return what, "", draw(rows_of(TCP_COOKIES | UDP_COOKIES, NAMESPACES)), set()
    if what == "forget":
        return what, "", [], {draw(NAMESPACES)}
    dumped = draw(st.sets(NAMESPACES))
    if not dumped:
        return "observe", what, [], dumped
    cookies = TCP_COOKIES if what == "tcp" else UDP_COOKIES
    return "observe", what, draw(rows_of(cookies, st.sampled_from(sorted(dumped)))), dumped


@given(most_left=st.sampled_from([2, 100]), history=st.lists(operations(), max_size=25))
def test_whatever_happens_carry_agrees_with_a_dictionary(
    most_left: int, history: list[tuple[str, str, list[Row], set[int]]]
) -> None:
    carry, model = Carry(most_left=most_left), Model(most_left)
    for what, step, rows, dumped in history:
        if what == "observe":
            for _ in range(1 + len(rows) % 2):  # the same again takes another way
                seen = observe(carry, rows, step, dumped)
                assert answer(seen) == model.observe(step, rows, dumped)
        elif what == "closed":
            gone = close(carry, *rows)
            assert answer(gone) == model.closed(rows)
            assert gone.sampled.tolist() == model.sampled
        else:
            carry.forget(*dumped)
            model.forget(*dumped)
        assert carry.slots().tolist() == model.slots()


# A world in which sockets live, are dumped and close


@dataclass
class Life:
    """A TCP socket: what state it is in at each sample, None while no dump can show it."""

    netns: int
    states: list[int | None]
    connection: bool


@st.composite
def lives(draw: st.DrawFn) -> Life:
    before = draw(st.lists(st.sampled_from([CLOSE, SYN_RECV]), max_size=2))
    open_ = draw(st.lists(st.sampled_from([ESTAB, SYN_SENT, FIN_WAIT2, None]), max_size=4))
    return Life(
        draw(st.sampled_from([1, 2])), [*before, *open_], bool(open_) or draw(st.booleans())
    )


@given(
    born=st.lists(st.tuples(st.integers(0, 4), lives()), max_size=12),
    dumps=st.lists(st.sets(st.sampled_from([1, 2])), min_size=11, max_size=11),
    time_wait=st.lists(st.integers(0, 2), min_size=12, max_size=12),
)
def test_every_connection_is_counted_once(
    born: list[tuple[int, Life]], dumps: list[set[int]], time_wait: list[int]
) -> None:
    carry = Carry()
    counted: dict[int, int] = {}
    for sample, dumped in enumerate(dumps):
        rows, events = [], []
        for cookie, (birth, life) in enumerate(born):
            age = sample - birth
            wait = time_wait[cookie]
            if 0 <= age < len(life.states):
                state = life.states[age]
            elif len(life.states) <= age < len(life.states) + wait:
                state = TIME_WAIT
            else:
                state = None
            if state is not None and life.netns in dumped:
                rows.append(Row(cookie, life.netns, state))
            if age == len(life.states):
                events.append(Row(cookie, life.netns, connection=life.connection))
        seen, gone = observe(carry, rows, "tcp", dumped), close(carry, *events)
        for row, opened in (
            *zip(rows, seen.opened, strict=True),
            *zip(events, gone.opened, strict=True),
        ):
            counted[row.cookie] = counted.get(row.cookie, 0) + int(opened)
    assert counted == {cookie: int(born[cookie][1].connection) for cookie in counted}
    for cookie, (_, life) in enumerate(born):
        if life.connection:
            assert cookie in counted


# Single rules

OWNER, OTHER = (3, 5, 1, 100), (4, 6, 2, 200)


def test_an_owner_is_carried_into_time_wait_and_to_the_close_event() -> None:
    carry = Carry()
    seen = observe(carry, [Row(1, inode=7, held=OWNER), Row(2)])
    assert answer(seen) == [(OWNER, 0, True), (UNKNOWN, -1, True)]
    seen = observe(carry, [Row(2), Row(1, state=TIME_WAIT)])
    assert answer(seen) == [(UNKNOWN, -1, False), (OWNER, 1, False)]
    gone = close(carry, Row(1), Row(9))
    assert answer(gone) == [(OWNER, 1, False), (UNKNOWN, -1, True)]
    assert gone.sampled.tolist() == [True, False]


def test_a_descriptor_decides_over_what_is_carried() -> None:
    carry = Carry()
    observe(carry, [Row(1, inode=7, held=OWNER)])
    assert owners(observe(carry, [Row(1, inode=7)])) == [(3, "carried")]
    assert owners(observe(carry, [Row(1, inode=7, held=OTHER)])) == [(4, "fd")]
    assert owners(observe(carry, [Row(1)])) == [(4, "carried")]


def test_a_socket_with_an_inode_that_nobody_is_known_to_hold_has_no_listener() -> None:
    listener = Row(1, state=LISTEN, inode=7, held=OWNER)
    assert owners(observe(Carry(), [listener, Row(2, inode=8), Row(3)])) == [
        (3, "fd"),
        (-1, "unknown"),
        (3, "listener"),
    ]


@pytest.mark.parametrize(
    ("listening", "connected", "owned"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "::1", True),
        ("::", "::ffff:127.0.0.1", True),
        ("::ffff:0.0.0.0", "::ffff:127.0.0.1", True),
        ("::ffff:0.0.0.0", "::1", False),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("::1", "::2", False),
        ("::", "127.0.0.1", False),
    ],
)
def test_a_connection_without_inode_belongs_to_who_listens(
    listening: str, connected: str, owned: bool
) -> None:
    carry = Carry()
    listener = Row(1, state=LISTEN, inode=7, addr=listening, held=OWNER)
    elsewhere = [Row(2, netns=2, addr=connected), Row(3, addr=connected, port=81)]
    seen = observe(carry, [listener, Row(4, addr=connected), *elsewhere])
    wanted = (3, "listener") if owned else (-1, "unknown")
    assert owners(seen) == [(3, "fd"), wanted, (-1, "unknown"), (-1, "unknown")]
    assert owners(close(carry, Row(5, addr=connected))) == [wanted]


def test_the_listener_on_the_very_address_comes_before_the_one_on_all() -> None:
    carry = Carry()
    every = Row(1, state=LISTEN, inode=7, addr="0.0.0.0", held=OWNER)
    exact = Row(2, state=LISTEN, inode=8, held=OTHER)
    seen = observe(carry, [every, exact, Row(3), Row(4, addr="10.0.0.1")])
    assert owners(seen)[2:] == [(4, "listener"), (3, "listener")]


def test_who_listened_is_remembered_when_the_listener_is_gone() -> None:
    carry = Carry()
    listener = Row(1, state=LISTEN, inode=7, held=OWNER)
    observe(carry, [listener, Row(2), Row(3, state=TIME_WAIT, timewait=True)])
    for _ in range(3):
        gone = observe(carry, [Row(2), Row(3, state=TIME_WAIT, timewait=True)])
        assert owners(gone) == [(3, "listener"), (3, "listener")]
    assert 3 in carry.slots().tolist()
    accepted = observe(carry, [replace(Row(2), inode=9, held=OTHER)])
    assert owners(accepted) == [(4, "fd")]


def test_only_tcp_has_listeners_and_connections() -> None:
    carry = Carry()
    observe(carry, [Row(1, state=LISTEN, inode=7, held=OWNER)])
    assert answer(observe(carry, [Row(2)], "udp")) == [(UNKNOWN, -1, False)]
    assert answer(close(carry, Row(2, tcp=False), Row(3, tcp=False))) == [(UNKNOWN, -1, False)] * 2


def test_a_connection_that_was_reset_stays_counted_until_its_close_event() -> None:
    carry = Carry()
    assert observe(carry, [Row(1, inode=7, held=OWNER)]).opened.tolist() == [True]
    for _ in range(10):
        observe(carry, [], dumped=[1])
    gone = close(carry, Row(1))
    assert answer(gone) == [(OWNER, 1, False)]
    assert gone.sampled.tolist() == [True]
    assert close(carry, Row(1)).sampled.tolist() == [False]


def test_a_minisocket_is_remembered_for_two_dumps_only() -> None:
    for dumps, sampled in ((GENERATIONS, True), (GENERATIONS + 1, False)):
        carry = Carry()
        observe(carry, [Row(1, state=SYN_RECV)])
        for _ in range(dumps):
            observe(carry, [], dumped=[1])
        assert close(carry, Row(1)).sampled.tolist() == [sampled]


def test_a_request_is_counted_when_it_is_a_connection() -> None:
    carry = Carry()
    states = [SYN_RECV, ESTAB, FIN_WAIT2, TIME_WAIT]
    opened = [observe(carry, [Row(1, state=state)]).opened.tolist() for state in states]
    assert opened == [[False], [True], [False], [False]]
    assert observe(carry, [Row(2, state=FIN_WAIT2, timewait=True)]).opened.tolist() == [False]


def test_of_too_many_sockets_in_no_dump_the_oldest_are_forgotten() -> None:
    carry = Carry(most_left=2)
    for cookie in range(4):
        observe(carry, [Row(cookie, inode=7, held=(cookie, 3, 1, 1))])
    observe(carry, [], dumped=[1])
    assert carry.slots().tolist() == [2, 3]
    assert close(carry, *map(Row, range(4))).sampled.tolist() == [False, False, True, True]


def test_time_wait_rows_leave_nothing_behind() -> None:
    carry = Carry()
    for first in range(0, 1000, 10):
        rows = [Row(first + n, inode=7, held=(n, 3, 1, 1)) for n in range(10)]
        observe(carry, rows)
        observe(carry, [replace(row, state=TIME_WAIT, held=UNKNOWN) for row in rows])
        close(carry, *rows)
    for _ in range(1 + GENERATIONS):
        observe(carry, [], dumped=[1])
    assert carry.slots().tolist() == []


def test_a_namespace_that_is_not_dumped_stays_as_it_was() -> None:
    carry = Carry()
    listener = Row(3, netns=2, state=LISTEN, inode=8, held=OTHER)
    observe(carry, [Row(1), Row(2, netns=2, inode=7, held=OWNER), listener])
    for _ in range(4):
        observe(carry, [Row(1)])
    seen = observe(carry, [Row(1), Row(2, netns=2), Row(5, netns=2)], dumped=[1])
    assert answer(seen)[:2] == [(UNKNOWN, -1, False), (OWNER, 1, False)]
    assert owners(seen)[2] == (4, "listener")


def test_a_namespace_is_forgotten_after_its_last_events() -> None:
    carry = Carry()
    observe(carry, [Row(1, netns=2, inode=7, held=OWNER)])
    carry.forget(2)
    observe(carry, [], dumped=[1])
    assert answer(close(carry, Row(1, netns=2))) == [(OWNER, 1, False)]
    assert carry.slots().tolist() == []


def test_a_namespace_is_forgotten_though_no_events_come() -> None:
    carry = Carry()
    observe(carry, [Row(1, netns=2, inode=7, held=OWNER)])
    carry.forget(2)
    for _ in range(GENERATIONS + 1):
        observe(carry, [], dumped=[1])
    assert carry.slots().tolist() == []


def test_equal_cookies_of_two_namespaces_are_two_sockets() -> None:
    carry = Carry()
    rows = [Row(1, netns=4026531840, inode=7, held=OWNER), Row(1, netns=4026532290)]
    assert answer(observe(carry, rows)) == [(OWNER, 0, True), (UNKNOWN, -1, True)]
    assert owners(close(carry, *rows)) == [(3, "carried"), (-1, "unknown")]


def test_cookies_made_to_share_a_bucket_are_told_apart() -> None:
    turn_back = pow(0x9E37_79B9_7F4A_7C15, -1, 1 << 64)
    rows = [
        Row(n * turn_back % (1 << 64), netns=0, inode=7, held=(n, 3, 1, 1)) for n in range(1, 60)
    ]
    carry = Carry()
    observe(carry, rows)
    seen = observe(carry, [replace(row, held=UNKNOWN) for row in [*rows[::-2], Row(9, netns=0)]])
    assert seen.slot.tolist() == [*range(59, 0, -2), -1]
    assert seen.opened.tolist() == [False] * 30 + [True]
