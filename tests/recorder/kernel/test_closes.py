"""Every closed socket is announced once, with its final counters, or counted as lost."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

from recorder.diag.inet_diag import INFO, PROTOCOL, TCPDIAG_GETSOCK, InetDiag, request_tcp_both
from recorder.kernel.closes import Closes, Taken
from recorder.kernel.transport import DiagSocket, connect_destroy
from recorder.owners.carry import Carry
from recorder.owners.holders import Holders
from recorder.schema import CLOSES
from recorder.store.journal import BatchMaker
from recorder.wire.columns import Values
from tests.recorder.support.fake_kernel import message, row
from tests.workloads.netns import MOUNTS, inode_of, inside, lacking, namespace

pytestmark = pytest.mark.live

_LACKING = lacking()
needs_namespaces = pytest.mark.skipif(_LACKING is not None, reason=_LACKING or "")

RELEASE = (6, 18)
WAIT_S = 60.0

_STORY = """
import json, os, socket, struct, sys, time
from socket import SOL_SOCKET, SO_LINGER, AF_INET6, SOCK_DGRAM

def cookie(s):
    return struct.unpack("=Q", s.getsockopt(SOL_SOCKET, 57, 8))[0]

def reset(s):
    s.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    s.close()

def listen(backlog=100, family=socket.AF_INET, address="127.0.0.1"):
    s = socket.socket(family)
    s.bind((address, 0))
    s.listen(backlog)
    return s
"""

_WORK = (
    _STORY
    + """
def work(number):
    listener, truth = listen(), []
    for n in range(60):
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        request, response = bytes(1 + 7 * n), bytes(100 * number + n)
        client.sendall(request)
        if response:
            server.sendall(response)
        received = 0
        while received < len(request):
            received += len(server.recv(65536))
        received = 0
        while received < len(response):
            received += len(client.recv(65536))
        truth += [[cookie(client), len(request)], [cookie(server), len(response)]]
        for s in (client, server) if n % 2 else (server, client):
            s.close()
    print(json.dumps(truth), flush=True)
    os._exit(0)

for number in range(3):
    if not os.fork():
        work(number)
for number in range(3):
    os.wait()
"""
)


def run_in(name: str, story: str, *arguments: str) -> list[Any]:
    command = inside(name, sys.executable, "-I", "-S", "-c", story, *arguments)
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in output.splitlines()]


T = TypeVar("T")


def in_namespace(name: str, make: Callable[[], T]) -> T:
    """Return what a thread makes that has entered a namespace."""
    made: list[T] = []

    def enter() -> None:
        with open(MOUNTS / name) as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(WAIT_S)
    return made[0]


def listen_in(name: str, **options: int) -> socket.socket:
    """Return an event socket of a namespace."""
    return in_namespace(name, lambda: connect_destroy(**options))


@pytest.fixture
def closes() -> Iterator[Closes]:
    closes = Closes(RELEASE)
    yield closes
    closes.close()


Event = dict[str, Any]


def rows_of(taken: Taken) -> list[Event]:
    return BatchMaker(CLOSES).make(taken.netns.size, taken.columns()).to_pylist()  # type: ignore[no-any-return]  # untyped


class Takes:
    """All that was taken of a Closes, until there is as much as a test waits for."""

    def __init__(self, closes: Closes) -> None:
        self._closes = closes
        self.rows: list[Event] = []
        self.lost: Counter[int] = Counter()
        self.events: Counter[int] = Counter()

    def until(self, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not enough() and time.monotonic() < deadline:
            self.take()
            time.sleep(0.01)
        assert enough()

    def take(self) -> None:
        taken = self._closes.take()
        self.rows += rows_of(taken)
        self.lost.update(taken.lost)
        self.events.update(taken.events)


@needs_namespaces
def test_every_close_is_announced_once_with_its_final_counters(closes: Closes) -> None:
    with namespace() as name:
        netns = inode_of(name)
        closes.add(netns, listen_in(name))
        before = time.time_ns() // 1000
        truth = {cookie: sent for part in run_in(name, _WORK) for cookie, sent in part}
        takes = Takes(closes)
        takes.until(lambda: len(takes.rows) >= len(truth) + 3)
        takes.take()
        after = time.time_ns() // 1000
    connections = [event for event in takes.rows if event["connection"]]
    assert {event["cookie"]: event["bytes_sent"] for event in connections} == truth
    assert len(connections) == len(truth) == 360
    assert {event["netns"] for event in takes.rows} == {netns}
    times = [event["time"].timestamp() * 1e6 for event in takes.rows]
    assert before <= min(times) <= max(times) <= after
    assert (takes.lost, takes.events) == ({netns: 0}, {netns: len(takes.rows)})
    listeners = [event for event in takes.rows if not event["connection"]]
    assert [event["bytes_sent"] for event in listeners] == [0, 0, 0]


_KINDS = (
    _STORY
    + """
truth = {}
def note(name, *sockets):
    for s in sockets:
        truth[cookie(s)] = name

s = socket.socket(); note("unused", s); s.close()
s = socket.socket(); s.bind(("127.0.0.1", 0)); note("bound", s); s.close()
s = listen(); note("listener", s); s.close()
s = socket.socket(type=SOCK_DGRAM); note("udp", s); s.close()
s = socket.socket(AF_INET6, SOCK_DGRAM); s.bind(("::1", 0)); note("udp", s); s.close()

s = listen(); free = s.getsockname(); s.close()
s = socket.socket(); note("refused", s); s.connect_ex(free); s.close()

s = listen(); c = socket.create_connection(s.getsockname()); a, _ = s.accept()
note("reset by its own end", a); note("reset by its peer", c); reset(a); c.close()

s = listen(family=AF_INET6, address="::")
c = socket.create_connection(("127.0.0.1", s.getsockname()[1])); a, _ = s.accept()
note("reset by its own end", a); note("reset by its peer", c); reset(a); c.close()

s = listen(); c = socket.create_connection(s.getsockname()); note("never accepted by its peer", c)
s.close(); c.close()

s = listen(); c = socket.create_connection(s.getsockname()); a, _ = s.accept()
note("closed", a, c); c.close(); a.close()

full = listen(0); waiting = []
for _ in range(4):
    c = socket.socket(); c.setblocking(False); c.connect_ex(full.getsockname()); waiting.append(c)
time.sleep(.05)
stuck = [c for c in waiting if c.getsockopt(6, 11, 1) == b"\\2"]  # TCP_INFO: SYN_SENT
assert stuck
note("not answered", *stuck)
for c in stuck: c.close()

s = listen(); c = socket.create_connection(s.getsockname()); a, _ = s.accept()
note("disconnected", c)
import ctypes
ctypes.CDLL(None).connect(c.fileno(), bytes(16), 16); c.close()
print(json.dumps(truth))
"""
)
_NO_CONNECTION = {"unused", "bound", "listener", "udp"}


@needs_namespaces
def test_what_was_a_connection_is_known_however_it_ended(closes: Closes) -> None:
    with namespace() as name:
        closes.add(inode_of(name), listen_in(name))
        [truth] = run_in(name, _KINDS)
        takes = Takes(closes)
        takes.until(lambda: {str(event["cookie"]) for event in takes.rows} >= truth.keys())
    found = {str(event["cookie"]): event for event in takes.rows}
    assert {(kind, found[cookie]["connection"]) for cookie, kind in truth.items()} == {
        (kind, int(kind not in _NO_CONNECTION)) for kind in truth.values()
    }
    for cookie, kind in truth.items():
        event = found[cookie]
        assert event["netid"] == ("udp" if kind == "udp" else "tcp")
        assert (event["send_q"] is None) == (event["segs_out"] is None) == (kind == "udp")
    accepted = [event for event in takes.rows if str(event["cookie"]) not in truth]
    assert all(event["netid"] == "tcp" for event in accepted)
    unaccepted = [e for e in accepted if e["connection"] and e["peer_addr"] == "127.0.0.1"]
    assert unaccepted  # the kernel's end of what was never accepted


@needs_namespaces
def test_what_a_small_buffer_cannot_hold_is_counted_exactly(closes: Closes) -> None:
    total = 3000
    with namespace() as name:
        netns = inode_of(name)
        closes.add(netns, listen_in(name, buffer=1))
        run_in(name, f"import socket\nfor _ in range({total}): socket.socket().close()")
        takes = Takes(closes)
        takes.until(lambda: len(takes.rows) + takes.lost[netns] >= total)
        takes.take()
    assert takes.lost[netns] > 0
    assert len(takes.rows) == len({event["cookie"] for event in takes.rows}) > 0
    assert len(takes.rows) + takes.lost[netns] == total
    assert takes.events[netns] == len(takes.rows)


@needs_namespaces
def test_namespaces_come_and_go_while_events_flow(closes: Closes) -> None:
    flow = _STORY + (
        "truth = []\nfor _ in range(4000):\n"
        "    s = socket.socket(); truth.append(cookie(s)); s.close()\n"
        "print(json.dumps(truth))"
    )
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(namespace()) for _ in range(3)]
        stays, leaves, comes = names
        for name in (stays, leaves):
            closes.add(inode_of(name), listen_in(name))
        command = [inside(name, sys.executable, "-I", "-S", "-c", flow) for name in names[:2]]
        flows = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for words in command]
        takes = Takes(closes)
        takes.until(lambda: takes.events[inode_of(leaves)] > 100)
        closes.remove(inode_of(leaves))
        closes.add(inode_of(comes), listen_in(comes))
        truth = {
            inode_of(name): set(json.loads(flow.communicate(timeout=60)[0]))
            for name, flow in zip(names, flows, strict=False)
        }
        [part] = run_in(comes, flow)
        truth[inode_of(comes)] = set(part)
        takes.until(lambda: takes.events[inode_of(comes)] == 4000)
        takes.until(lambda: takes.events[inode_of(stays)] == 4000)
        found = [(event["netns"], event["cookie"]) for event in takes.rows]
        assert len(found) == len(set(found))
        for name in (stays, comes):
            netns = inode_of(name)
            assert {cookie for number, cookie in found if number == netns} == truth[netns]
        gone = {cookie for number, cookie in found if number == inode_of(leaves)}
        assert gone <= truth[inode_of(leaves)]
        assert len(gone) == takes.events[inode_of(leaves)]
        assert set(takes.lost.values()) == {0}


_CHURN = (
    _STORY
    + """
from concurrent.futures import ThreadPoolExecutor, wait

servers = [listen(300), listen(300, AF_INET6, "::")]
asked = []

def serve(s):
    # whatever comes until both have asked: what the kernel dropped does not come
    n = 0
    s.settimeout(.2)
    while True:
        try:
            a, _ = s.accept()
        except TimeoutError:
            if len(asked) == len(servers):
                return
            continue
        n += 1
        if n % 3 == 0:
            a.settimeout(.005)
            try:
                a.recv(1)  # until the client has closed, if it does soon
            except OSError:
                pass
        (reset if n % 7 == 0 else type(a).close)(a)

def ask(s):
    port, kept = s.getsockname()[1], []
    for n in range(300):
        c = socket.socket()
        try:
            c.connect(("127.0.0.1", port))
        except ConnectionResetError:
            pass  # on one processor the server may reset before this returns
        if n % 10 == 1:
            kept.append(c)  # longer than several samples, many after their peer was closed
        else:
            (reset if n % 5 == 0 else type(c).close)(c)
        if n % 20 == 0:
            time.sleep(.02)
            r = socket.socket(); r.connect_ex(("127.0.0.1", 1)); r.close()
        if len(kept) > 15:
            kept.pop(0).close()
    return kept

with ThreadPoolExecutor(8) as pool:
    for s in servers:
        pool.submit(serve, s)
    asking = [pool.submit(ask, s) for s in servers]
    asked.extend(wait(asking).done)  # well or not: who serves waits for it
    kept = [part.result() for part in asking]
"""
)


@needs_namespaces
def test_dumps_and_events_together_count_each_connection_once(closes: Closes) -> None:
    def opens(name: str) -> int:
        command = inside(name, "cat", "/proc/net/snmp")
        snmp = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        names, values = (line.split()[1:] for line in snmp.splitlines() if line[:4] == "Tcp:")
        tcp = dict(zip(names, map(int, values), strict=True))
        return tcp["ActiveOpens"] + tcp["PassiveOpens"]

    carry, decoder = Carry(), InetDiag("tcp", RELEASE)
    with namespace() as name, contextlib.ExitStack() as stack:
        netns = inode_of(name)
        closes.add(netns, listen_in(name))
        diag = in_namespace(name, DiagSocket)
        stack.callback(diag.close)
        before = opens(name)
        command = inside(name, sys.executable, "-I", "-S", "-c", _CHURN)
        churn = stack.enter_context(subprocess.Popen(command))
        stack.callback(churn.kill)
        counted, samples, sampled, more = 0, 0, 0, 3
        deadline = time.monotonic() + WAIT_S
        while more and time.monotonic() < deadline:
            time.sleep(0.03)
            if churn.poll() is not None and counted >= opens(name) - before:
                more -= 1  # nothing is counted after all were
            decoder.columns.clear()
            assert diag.dump(TCPDIAG_GETSOCK, request_tcp_both(), decoder.decode).bad == 0
            counted += observed(carry, decoder, netns)
            taken = closes.take()
            assert taken.lost == {netns: 0}
            opened, shown = announced(carry, taken)
            counted, sampled, samples = counted + opened, sampled + shown, samples + 1
        assert churn.wait(WAIT_S) == 0
        assert counted == opens(name) - before > 1200
        assert samples > 5
        assert sampled > 0


def observed(carry: Carry, decoder: InetDiag, netns: int) -> int:
    columns = decoder.columns
    count = columns.rows
    nobody = np.full(count, -1, np.int32)
    seen = carry.observe(
        "tcp",
        netns=np.full(count, netns, np.uint64),
        cookies=columns["cookie"],
        state=columns["_state"],
        timewait=columns["_timer"] == 3,
        inode=columns["inode"],
        family=columns["_family"],
        local_port=columns["local_port"],
        local_addr=columns["_src"],
        held=Holders(nobody, nobody, np.zeros_like(nobody), np.zeros(count, np.int64)),
        dumped=np.array([netns], np.uint64),
    )
    return int(seen.opened.sum())


def announced(carry: Carry, taken: Taken) -> tuple[int, int]:
    columns = taken.decoder.columns
    gone = carry.closed(
        netns=taken.netns,
        cookies=columns["cookie"],
        connection=taken.connection,
        tcp=taken.tcp,
        family=columns["_family"],
        local_port=columns["local_port"],
        local_addr=columns["_src"],
    )
    return int(gone.opened.sum()), int((gone.sampled & taken.connection).sum())


# A kernel of our own, for what the real one does not send


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def event(cookie: int, protocol: int = socket.IPPROTO_TCP, segments: int = 3) -> bytes:
    info = bytearray(280)
    struct.pack_into("=I", info, 136, segments)
    body = row(cookie) + attribute(PROTOCOL, bytes([protocol])) + attribute(INFO, bytes(info))
    return message(0, 20, body, portid=0)


@pytest.fixture
def kernel(closes: Closes) -> Callable[[int], socket.socket]:
    def connect(netns: int) -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        near.setblocking(False)
        closes.add(netns, near)
        return far

    return connect


def test_what_is_left_of_a_namespace_is_received_before_it_goes(
    closes: Closes, kernel: Callable[[int], socket.socket]
) -> None:
    with kernel(1) as far:
        for cookie in range(5):
            far.send(event(cookie))
        closes.remove(1)
        taken = closes.take()
        assert taken.decoder.columns["cookie"].tolist() == [*range(5)]
        assert (taken.events, taken.lost) == ({1: 5}, {1: 0})
        assert closes.take().netns.size == 0
        with pytest.raises(ConnectionRefusedError):
            far.send(event(6))


def test_broken_events_are_left_out_and_the_others_keep_their_namespace(
    closes: Closes, kernel: Callable[[int], socket.socket]
) -> None:
    overrun = bytearray(event(9))
    struct.pack_into("=H", overrun, 16 + 72, 5000)
    broken = [b"", b"abc", bytes(overrun), message(0, 20, bytes(40)), message(0, 3, row(9))]
    broken += [event(9)[:100], message(0, 20, row(9) + bytes(5000))]
    with kernel(1) as first, kernel(2) as second:
        for number, datagram in enumerate(broken):
            first.send(event(10 + number))
            first.send(datagram)
            second.send(event(20 + number))
        taken = closes.take()
    found = zip(taken.netns.tolist(), taken.decoder.columns["cookie"].tolist(), strict=True)
    assert sorted(found) == [(n, 10 * n + k) for n in (1, 2) for k in range(len(broken))]
    assert taken.dump.bad == len(broken)
    assert taken.events == {1: 2 * len(broken), 2: len(broken)}
    assert rows_of(taken)[0]["segs_out"] == 3


def test_protocols_that_are_neither_tcp_nor_udp_have_no_netid(
    closes: Closes, kernel: Callable[[int], socket.socket]
) -> None:
    with kernel(1) as far:
        for cookie, protocol in enumerate((6, 17, 136)):
            far.send(event(cookie, protocol))
        found = rows_of(closes.take())
    assert [event["netid"] for event in found] == ["tcp", "udp", None]
    assert [event["connection"] for event in found] == [1, 0, 0]


def test_the_columns_are_those_of_the_table(
    closes: Closes, kernel: Callable[[int], socket.socket]
) -> None:
    with kernel(1) as far:
        far.send(event(1))
        columns = closes.take().columns()
    added = {"sample", "dev", "sampled", "owner_by", "owner_time"}
    added |= {"pid", "start_us", "comm", "fd", "ecn_mode", "options2"}
    assert set(CLOSES.names) - columns.keys() == added
    assert columns.keys() <= set(CLOSES.names)
    values = columns["time"]
    assert isinstance(values, Values)
    assert values.data.dtype == np.int64


def test_closing_ends_the_thread_and_every_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    closes = Closes(RELEASE)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        closes.add(1, near)
        far.send(event(1))
        closes.take()
        closes.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads


def test_what_nobody_takes_waits_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recorder.kernel.closes.MOST_BLOCKS", 1)
    monkeypatch.setattr("recorder.kernel.closes.BLOCK_EVENTS", 4)
    closes = Closes(RELEASE)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    with far:
        closes.add(1, near)
        for cookie in range(8):
            far.send(event(cookie))
        deadline = time.monotonic() + WAIT_S
        while closes.waiting < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert closes.waiting == 4
        assert closes.take().decoder.columns["cookie"].tolist() == [*range(8)]
    closes.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_any_user_may_listen() -> None:
    def listen() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        made = connect_destroy()
        got = made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        # the limit is rmem_max, which Linux 6.1 does not show in every network namespace
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 30)
            most = other.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        os._exit(0 if 0 < got <= most else 2)

    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            listen()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_root_may_have_a_buffer_beyond_the_limit() -> None:
    with connect_destroy(1 << 20) as made:
        asked = made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert asked == 2 << 20 or os.geteuid() != 0


@needs_namespaces
def test_after_a_loss_events_are_received_as_soon_as_there_is_room() -> None:
    burst = "for _ in range(50): socket.socket().close()\nprint(0)"
    last = "s = socket.socket(); print(cookie(s)); s.close()"
    with namespace() as name, listen_in(name, buffer=8192) as made, listen_in(name) as whole:
        run_in(name, _STORY + burst)
        for _ in range(50):  # the kernel gives each announcement to all, and then makes the next
            receive(whole)
        time.sleep(0.1)
        for _ in range(3):
            receive(made)  # some, not all
        [wanted] = run_in(name, _STORY + last)
        while wanted not in cookies(receive(whole)):
            pass
        time.sleep(0.1)
        found: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found += cookies(made.recv(4096))
        assert wanted in found


def receive(events: socket.socket) -> bytes:
    """Wait for an announcement."""
    assert select.select([events], [], [], WAIT_S)[0], "nothing is announced"
    return events.recv(4096)


def cookies(announcement: bytes) -> tuple[int, ...]:
    """Return the cookie of the socket that an announcement is of."""
    return struct.unpack_from("=Q", announcement, 16 + 44)
