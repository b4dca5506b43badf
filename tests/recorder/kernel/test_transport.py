"""Every way a dump can end is an outcome; none hangs, and none is a silent empty table."""

from __future__ import annotations

import errno
import struct

import numpy as np
import pytest

from recorder.diag.inet_diag import InetDiag
from recorder.kernel.transport import DATAGRAM, DiagSocket
from recorder.wire.netlink import Dump
from tests.recorder.support.fake_kernel import FakeKernel, Reply, done, message, row


def dump(*replies: Reply) -> tuple[list[Dump], list[list[int]], FakeKernel]:
    kernel = FakeKernel(*replies)
    diag = DiagSocket(kernel.connect)
    decoder = InetDiag("tcp", (6, 18))
    dumps, cookies = [], []
    for _ in replies:
        decoder.columns.clear()
        dumps.append(diag.dump(20, b"", decoder.decode))
        cookies.append(np.asarray(decoder.columns["cookie"]).tolist())
    diag.close()
    return dumps, cookies, kernel


def test_rows_of_several_datagrams_are_all_decoded() -> None:
    def reply(seq: int) -> list[bytes]:
        return [
            message(seq, 20, row(1)) + message(seq, 20, row(2)),
            message(seq, 20, row(3)) + done(seq),
        ]

    dumps, cookies, _ = dump(reply)
    assert dumps[0].outcome.name == "ok"
    assert cookies == [[1, 2, 3]]


def test_a_done_with_an_error_after_no_rows_is_unavailable() -> None:
    dumps, cookies, kernel = dump(lambda seq: [done(seq, -errno.ENOENT)])
    assert (dumps[0].outcome.name, dumps[0].outcome.errno) == ("unavailable", errno.ENOENT)
    assert cookies == [[]]
    assert kernel.connections == 1


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(errno.ENOENT, "unavailable"), (errno.EBUSY, "busy"), (errno.EPERM, "error")],
)
def test_an_error_message_is_its_outcome(code: int, outcome: str) -> None:
    def reply(seq: int) -> list[bytes]:
        return [message(seq, 2, struct.pack("=i", -code) + bytes(16))]

    dumps, _, _ = dump(reply)
    assert (dumps[0].outcome.name, dumps[0].outcome.errno) == (outcome, code)


def test_an_error_in_done_after_rows_keeps_the_rows() -> None:
    dumps, cookies, _ = dump(lambda seq: [message(seq, 20, row(5)) + done(seq, -errno.ENOMEM)])
    assert (dumps[0].outcome.name, dumps[0].outcome.errno) == ("error", errno.ENOMEM)
    assert cookies == [[5]]


def test_a_truncated_datagram_is_told_and_what_is_whole_is_kept() -> None:
    def reply(seq: int) -> list[bytes]:
        many = b"".join(message(seq, 20, row(n)) for n in range(DATAGRAM // 88 + 1))
        assert len(many) > DATAGRAM
        return [many, done(seq)]

    dumps, cookies, _ = dump(reply)
    assert dumps[0].outcome.name == "truncated"
    assert cookies == [list(range(DATAGRAM // 88))]


def test_a_kernel_that_falls_silent_is_an_error_and_the_next_dump_is_clean() -> None:
    def good(seq: int) -> list[bytes]:
        return [message(seq, 20, row(9)) + done(seq)]

    dumps, cookies, kernel = dump(lambda seq: [message(seq, 20, row(1))], good)
    assert (dumps[0].outcome.name, dumps[0].outcome.errno) == ("error", errno.ETIMEDOUT)
    assert dumps[1].outcome.name == "ok"
    assert cookies[1] == [9]
    assert kernel.connections == 2


def test_a_broken_chain_costs_its_datagram_only() -> None:
    def reply(seq: int) -> list[bytes]:
        broken = bytearray(message(seq, 20, row(2)))
        struct.pack_into("=I", broken, 0, 5)
        return [
            message(seq, 20, row(1)) + bytes(broken) + message(seq, 20, row(3)),
            message(seq, 20, row(4)),
            done(seq),
        ]

    dumps, cookies, _ = dump(reply)
    assert dumps[0].outcome.name == "corrupt"
    assert cookies == [[1, 4]]


def test_a_short_message_is_left_out_and_told() -> None:
    dumps, cookies, _ = dump(
        lambda seq: [message(seq, 20, row(1)) + message(seq, 20, bytes(40)), done(seq)]
    )
    assert dumps[0].outcome.name == "corrupt"
    assert dumps[0].bad == 1
    assert cookies == [[1]]


def test_answers_to_another_request_are_left_out() -> None:
    def reply(seq: int) -> list[bytes]:
        other = message(seq ^ 1, 20, row(1))
        stranger = message(seq, 20, row(2), portid=1)
        return [other + stranger + message(seq, 20, row(3)), done(seq ^ 1), done(seq)]

    dumps, cookies, _ = dump(reply)
    assert dumps[0].outcome.name == "ok"
    assert cookies == [[3]]


def test_a_lone_fragment_of_a_head_is_corrupt() -> None:
    dumps, _, _ = dump(lambda seq: [b"\1\2\3", done(seq)])
    assert dumps[0].outcome.name == "corrupt"
