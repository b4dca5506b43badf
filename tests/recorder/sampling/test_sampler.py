"""A sample says of each table how it was read, and holds each socket once."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recorder.host.facts import current_netns
from recorder.host.namespaces import CURRENT, Namespace, Namespaces
from recorder.kernel.places import WHOLE_EVERY, Place, Places
from recorder.kernel.tables import ASK_AGAIN, parse_query
from recorder.owners.owners import Owners
from recorder.sampling.sampler import Sample, Sampler
from tests.recorder.support import family_messages as made
from tests.recorder.support.fake_kernel import FakeKernel, Reply, done, message, row
from tests.recorder.support.messages import attribute
from tests.recorder.support.owners_fake_proc import FakeProc

NOW_US = 1_800_000_000_000_000


def failing(seq: int) -> list[bytes]:
    return [message(seq, 2, struct.pack("=i", -errno.EINVAL) + bytes(16))]


def answering(*cookies: int, attributes: bytes = b"") -> Reply:
    def reply(seq: int) -> list[bytes]:
        rows = b"".join(message(seq, 20, row(cookie) + attributes) for cookie in cookies)
        return [rows + done(seq)]

    return reply


@contextmanager
def sampler_of(
    kernel: FakeKernel,
    *tables: str,
    release: tuple[int, int] = (6, 18),
    owners: Owners | None = None,
) -> Iterator[Sampler]:
    sampler = Sampler(
        parse_query(",".join(tables)),
        release=release,
        places=Places(Namespaces(CURRENT), None, connect=kernel.connect),
        owners=owners,
        closes=None,
        interval_s=1.0,
        now_us=lambda: NOW_US,
    )
    try:
        yield sampler
    finally:
        sampler.close()


def one_sample(kernel: FakeKernel, table: str, **facts: int) -> Sample:
    with sampler_of(kernel, table) as sampler:
        return sampler.take(facts.pop("number", 0), **facts)


def rows_of(sample: Sample, table: str) -> list[dict[str, Any]]:
    batches = [batch for name, batch in sample.batches if name == table]
    rows: list[dict[str, Any]] = pa.Table.from_batches(batches).to_pylist() if batches else []
    return rows


def steps_of(sample: Sample) -> list[dict[str, Any]]:
    """Return the rows of samples about tables of the kernel."""
    others = ("namespaces", "counters", "counters_after")
    return [row for row in rows_of(sample, "samples") if row["step"] not in others]


def test_a_kernel_without_the_legacy_request_is_asked_for_each_family_from_then_on() -> None:
    kernel = FakeKernel(failing, answering(1, 2), answering(3), answering(1, 2), answering(3))
    with sampler_of(kernel, "tcp") as sampler:
        for number in range(2):
            (step,) = steps_of(sampler.take(number))
            assert (step["step"], step["rows"], step["outcome"]) == ("tcp", 3, "ok")
    assert kernel.requests == [18, 20, 20, 20, 20]


def test_a_kernel_that_understands_neither_is_read_by_proc_from_then_on() -> None:
    kernel = FakeKernel(failing, failing, failing)
    with socket.create_server(("127.0.0.1", 0)) as listener, sampler_of(kernel, "tcp") as sampler:
        for number in range(2):
            sample = sampler.take(number)
            (step,) = steps_of(sample)
            assert (step["outcome"], step["source"]) == ("ok", "proc")
            ports = {row["local_port"] for row in rows_of(sample, "sockets")}
            assert listener.getsockname()[1] in ports
            (reading,) = sample.reading
            assert (reading["source"], reading["why"]) == ("proc", "NLMSG_ERROR: Invalid argument")
    assert kernel.requests == [18, 20, 20]


def test_a_socket_given_twice_is_recorded_once_and_counted() -> None:
    kernel = FakeKernel(answering(7, 8, 7, 9, 8))
    sample = one_sample(kernel, "tcp")
    assert [row["cookie"] for row in rows_of(sample, "sockets")] == [7, 8, 9]
    (step,) = steps_of(sample)
    assert (step["rows"], step["repeated"]) == (3, 2)


def test_unknown_attributes_are_counted_by_type() -> None:
    def attribute(kind: int, payload: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(payload), kind) + payload

    peers, newer = attribute(13, bytes(8)), attribute(99, bytes(4))
    tls = attribute(2, attribute(1, b"\3\3\0\0") + attribute(30, bytes(4)))
    ulp = attribute(19, attribute(1, b"tls\0") + tls + attribute(9, bytes(4)))
    kernel = FakeKernel(answering(1, 2, attributes=peers + newer + ulp))
    sample = one_sample(kernel, "tcp")
    assert sample.unknown == {"tcp": {"13": 2, "99": 2, "19/2/30": 2, "19/9": 2}}
    assert [row["ulp"] for row in rows_of(sample, "sockets")] == ["tls", "tls"]


def test_a_table_without_a_handler_is_unavailable_and_asked_for_again_later() -> None:
    kernel = FakeKernel(lambda seq: [done(seq, -errno.ENOENT)], answering())
    with sampler_of(kernel, "vsock") as sampler:
        for number in (0, 1, ASK_AGAIN - 1):
            sample = sampler.take(number)
            (step,) = steps_of(sample)
            assert (step["outcome"], step["errno"]) == ("unavailable", errno.ENOENT)
            assert step["source"] is None
        (step,) = steps_of(sampler.take(ASK_AGAIN))
        assert (step["outcome"], step["source"]) == ("ok", "diag")
    assert rows_of(sample, "sockets") == []


def test_every_row_has_the_time_of_its_sample_and_the_steps_their_lateness() -> None:
    kernel = FakeKernel(answering(1))
    sample = one_sample(kernel, "tcp", number=41, late_us=1500, skipped=2)
    (socket,) = rows_of(sample, "sockets")
    (step,) = steps_of(sample)
    for found in (socket, step):
        assert found["sample"] == 41
        assert found["netns"] == current_netns()
        assert found["sample_time"].timestamp() * 1e6 == NOW_US
    assert (step["late_us"], step["skipped"]) == (1500, 2)
    assert step["boottime_us"] > 0


class Counts:
    """What the kernel says of its sockets, as a namespace's /proc/net/protocols."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **in_use: int) -> None:
        self.in_use = in_use
        monkeypatch.setattr("recorder.kernel.places.read_namespace", self.read)

    def read(self) -> dict[str, bytes]:
        lines = [f"{name} 1000 {count} -1 NI\n" for name, count in self.in_use.items()]
        return {"protocols": ("protocol size sockets memory press\n" + "".join(lines)).encode()}


def outcomes(sample: Sample) -> dict[str, str]:
    return {step["step"]: step["outcome"] for step in steps_of(sample)}


def test_a_count_of_none_is_believed_no_more_once_a_socket_outlived_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of raw sockets here, so of every table: that is the kernel's fault of MPTCP in 6.1."""
    Counts(monkeypatch, RAW=0, RAWv6=0)
    # raw holds one socket all the time, raw6 never has any
    kernel = FakeKernel(answering(7), answering(), answering(7), answering(7))
    with sampler_of(kernel, "raw") as sampler:
        first, second, third = (sampler.take(number) for number in range(3))
        assert outcomes(first) == {"raw": "ok", "raw6": "ok"}  # the first is always looked at
        assert (outcomes(second)["raw"], outcomes(third)["raw"]) == ("ok", "ok")
        assert outcomes(third)["raw6"] == "skipped_empty"
        details = [step["detail"] for s in (first, second, third) for step in steps_of(s)]
    said = "the kernel counted none of 1 sockets; from here on its count is not believed"
    assert [detail for detail in details if detail] == [said]
    assert ("raw sockets of earlier samples", "the kernel counted none where there were 1") in (
        second.unseen
    )
    assert [row["cookie"] for row in rows_of(third, "sockets")] == [7]


def test_a_count_of_none_is_believed_though_sockets_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Counts(monkeypatch, RAW=0, RAWv6=0)
    # made after the count was read, closed before it was read again; then there is none
    kernel = FakeKernel(answering(7), answering(), answering(8), answering(), answering())
    with sampler_of(kernel, "raw") as sampler:
        samples = [sampler.take(number) for number in range(5)]
    assert [outcomes(sample)["raw"] for sample in samples] == ["ok"] * 3 + ["skipped_empty"] * 2
    assert [sample.unseen for sample in samples] == [[]] * 5
    assert kernel.requests == [20] * 4


def test_the_tables_are_looked_at_again_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    Counts(monkeypatch, RAW=0, RAWv6=0)
    kernel = FakeKernel(answering(), answering(), *[answering(7)] * 100)
    with sampler_of(kernel, "raw") as sampler:
        read = [n for n in range(WHOLE_EVERY + 3) if outcomes(sampler.take(n))["raw"] == "ok"]
    assert read[0] == 0
    assert read[1] <= WHOLE_EVERY
    assert read[2:] == list(range(read[1] + 1, WHOLE_EVERY + 3))


@pytest.mark.parametrize(
    ("state", "believed"), [(1, False), (3, True), (6, True), (7, True), (12, True), (13, True)]
)
def test_what_tcp_does_not_count_is_no_contradiction(
    monkeypatch: pytest.MonkeyPatch, state: int, believed: bool
) -> None:
    monkeypatch.setattr("recorder.kernel.places.UNCOUNTED", ())  # as in any namespace but our own
    Counts(monkeypatch, TCP=0, TCPv6=0)

    def reply(seq: int) -> list[bytes]:
        body = bytearray(row(7))
        body[1] = state
        return [message(seq, 20, bytes(body)) + done(seq)]

    with sampler_of(FakeKernel(*[reply] * 9), "tcp") as sampler:
        last = [outcomes(sampler.take(number))["tcp"] for number in range(3)][-1]
    assert last == ("skipped_empty" if believed else "ok")


@pytest.mark.parametrize(
    ("release", "query", "names", "believed"),
    [
        ((6, 1), "mptcp", ("MPTCP", "MPTCPv6"), False),
        ((6, 2), "mptcp", ("MPTCP", "MPTCPv6"), True),
        ((6, 1), "dccp", ("DCCP", "DCCPv6"), False),
        ((6, 1), "udplite", ("UDP-Lite", "UDPLITEv6"), True),
    ],
)
def test_counts_that_are_known_to_be_wrong_are_never_believed(
    monkeypatch: pytest.MonkeyPatch,
    release: tuple[int, int],
    query: str,
    names: tuple[str, str],
    believed: bool,
) -> None:
    Counts(monkeypatch, **dict.fromkeys(names, 0))
    with sampler_of(FakeKernel(*[answering()] * 20), query, release=release) as sampler:
        found = [outcomes(sampler.take(number))[query] for number in range(3)]
    assert found == ["ok", *(["skipped_empty"] * 2 if believed else ["ok"] * 2)]


def test_a_namespace_is_not_empty_while_dccp_may_have_time_wait() -> None:
    namespace = Namespace(4711, (), None, None, None, home=False, entered=True, why=None)
    place = Place(namespace, None, None, {"NETLINK": 1})  # type: ignore[arg-type]
    place.in_use = {"used": 1, "NETLINK": 1, "TCP": 0}
    assert place.is_empty
    place.in_use |= {"DCCP": 0}
    assert not place.is_empty


def told(*bodies: bytes) -> Reply:
    """Answer with these messages."""
    return lambda seq: [b"".join(message(seq, 20, body) for body in bodies) + done(seq)]


def tcp(state: int, inode: int, ports: tuple[int, int], source: str, destination: str) -> bytes:
    body = bytearray(72)
    body[:2] = bytes([socket.AF_INET, state])
    struct.pack_into(">HH", body, 4, *ports)
    body[8:12], body[24:28] = socket.inet_aton(source), socket.inet_aton(destination)
    struct.pack_into("=Q", body, 44, inode)
    struct.pack_into("=I", body, 68, inode)
    return bytes(body)


def tipc(inode: int, state: int, *attributes: bytes, kind: int = 5) -> bytes:
    numbers = ((2, inode), (6, kind), (7, inode), (8, 0), (9, state))
    cookie = attribute(10, struct.pack("=Q", inode))
    return made.tipc(*(made.u32(*number) for number in numbers), cookie, *attributes)


PUBLISHED = attribute(4, b"")
SERVED = attribute(3, attribute(1, b"") + made.u32(4, 1) + made.u32(5, 1))
ENDS = ((443, 999), ("10.0.0.1", "10.0.0.2"))


def test_the_kernels_own_sockets_are_not_looked_for(tmp_path: Path) -> None:
    """TIPC's topology server and its subscriptions, and the TCP connections that carry SMC."""
    proc = FakeProc(tmp_path)
    proc.write(70, {3: "socket:[21]", 4: "socket:[32]", 5: "socket:[33]"})
    kernel = FakeKernel(
        *[
            told(tcp(1, 11, ENDS[0], *ENDS[1]), tcp(1, 12, (443, 998), *ENDS[1])),
            told(
                tipc(31, 10, PUBLISHED),  # the topology server
                tipc(32, 10, PUBLISHED),  # a listener that a process has
                tipc(33, 1, SERVED),  # who is subscribed, and below its other end
                tipc(34, 1, SERVED),
            ),
            told(made.smc(1, 0, *ENDS, 0, 21, 5)),
        ]
        * 2
    )
    with sampler_of(kernel, "tcp", "tipc", "smc", owners=Owners(tmp_path)) as sampler:
        for number in range(2):
            sample = sampler.take(number)
            (step,) = (row for row in rows_of(sample, "samples") if row["step"] == "owners")
            assert step["unresolved"] == 1  # 12
            found = {r["inode"]: (r["pid"], r["owner_by"]) for r in rows_of(sample, "sockets")}
            held = dict.fromkeys((21, 32, 33), (70, "fd"))
            unheld = dict.fromkeys((11, 31, 34), (None, "kernel")) | {12: (None, None)}
            assert found == held | unheld


def test_while_a_process_may_hold_it_a_socket_is_not_said_to_be_the_kernels(tmp_path: Path) -> None:
    """Both ends of a subscription are held by none that could be looked at; one is a process's."""
    FakeProc(tmp_path).write(70, {})
    rows = told(tipc(33, 1, SERVED), tipc(34, 1, SERVED))
    with sampler_of(FakeKernel(rows), "tipc", owners=Owners(tmp_path)) as sampler:
        found = rows_of(sampler.take(0), "sockets")
    assert {row["inode"]: row["owner_by"] for row in found} == {33: None, 34: None}


def test_a_listener_of_tipc_beside_the_kernels_is_looked_for(tmp_path: Path) -> None:
    FakeProc(tmp_path).write(70, {})
    rows = told(tipc(31, 10, PUBLISHED), tipc(32, 10, PUBLISHED), tipc(33, 10, PUBLISHED, kind=1))
    with sampler_of(FakeKernel(rows), "tipc", owners=Owners(tmp_path)) as sampler:
        sample = sampler.take(0)
    (step,) = (row for row in rows_of(sample, "samples") if row["step"] == "owners")
    assert (step["unresolved"], step["detail"]) == (2, "2 inodes without a process")
    assert {row["owner_by"] for row in rows_of(sample, "sockets")} == {None}
