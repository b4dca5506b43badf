"""A sample says of each table how it was read, and holds each socket once."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from recorder.host.facts import current_netns
from recorder.host.namespaces import CURRENT, Namespaces
from recorder.kernel.places import Places
from recorder.kernel.tables import ASK_AGAIN, parse_query
from recorder.sampling.sampler import Sample, Sampler
from tests.recorder.support.fake_kernel import FakeKernel, Reply, done, message, row

NOW_US = 1_800_000_000_000_000


def failing(seq: int) -> list[bytes]:
    return [message(seq, 2, struct.pack("=i", -errno.EINVAL) + bytes(16))]


def answering(*cookies: int, attributes: bytes = b"") -> Reply:
    def reply(seq: int) -> list[bytes]:
        rows = b"".join(message(seq, 20, row(cookie) + attributes) for cookie in cookies)
        return [rows + done(seq)]

    return reply


@contextmanager
def sampler_of(kernel: FakeKernel, *tables: str) -> Iterator[Sampler]:
    sampler = Sampler(
        parse_query(",".join(tables)),
        release=(6, 18),
        places=Places(Namespaces(CURRENT), None, connect=kernel.connect),
        owners=None,
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
