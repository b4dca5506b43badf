"""Small dumps that are decoded together give what each gives alone, and tell their own faults."""

from __future__ import annotations

import errno
import struct

import numpy as np
import pytest

from recorder.diag.inet_diag import InetDiag
from recorder.kernel.tables import Steps, parse_query
from recorder.kernel.transport import DiagSocket
from recorder.kernel.waiting import MOST_BYTES, Waiting
from recorder.wire.netlink import Decode, Dump
from tests.recorder.support.fake_kernel import FakeKernel, Reply, done, message, row

SIZE = len(message(1, 20, row(1)))


class Table:
    """Dumps of several namespaces, each of a kernel of its own, that wait."""

    def __init__(self, *replies: Reply) -> None:
        self.decoder = InetDiag("tcp", (6, 18))
        self.waiting = Waiting()
        self.dumps = []
        self.waited = []
        for reply in replies:
            diag = DiagSocket(FakeKernel(reply).connect)
            dump = diag.dump(20, b"", self.decoder.decode, self.waiting)
            diag.close()
            self.dumps.append(dump)
            self.waited.append(self.waiting.has(dump))

    @property
    def cookies(self) -> list[int]:
        found: list[int] = np.asarray(self.decoder.columns["cookie"]).tolist()
        return found


def sockets(*cookies: int) -> Reply:
    return lambda seq: [*(message(seq, 20, row(cookie)) for cookie in cookies), done(seq)]


def test_dumps_that_wait_are_decoded_in_their_order() -> None:
    table = Table(sockets(1, 2), sockets(), sockets(3), sockets(2, 4, 5))
    assert table.waited == [True, False, True, True]  # there is nothing in the second
    assert table.cookies == []
    assert table.waiting.decode(table.decoder) == [2, 1, 3]
    assert table.cookies == [1, 2, 3, 2, 4, 5]
    assert {dump.outcome.name for dump in table.dumps} == {"ok"}
    assert [dump.bytes for dump in table.dumps] == [SIZE * n + 20 for n in (2, 0, 1, 3)]
    assert not table.waiting.has(table.dumps[-1])


def test_what_was_decoded_does_not_wait_any_more() -> None:
    table = Table(sockets(1))
    before = table.waiting.seq
    table.waiting.decode(table.decoder)
    assert table.waiting.size == 0
    assert table.waiting.seq != before


def test_a_large_dump_and_one_that_failed_do_not_wait() -> None:
    many = range(MOST_BYTES // SIZE + 1)

    def failed(seq: int) -> list[bytes]:
        return [message(seq, 20, row(7)) + done(seq, -errno.ENOMEM)]

    table = Table(sockets(*many), failed)
    assert table.waited == [False, False]
    assert table.cookies == [*many, 7]
    assert [dump.outcome.name for dump in table.dumps] == ["ok", "error"]


def test_what_is_broken_in_one_costs_the_others_nothing() -> None:
    def broken(seq: int) -> list[bytes]:
        head = bytearray(message(seq, 20, row(2)))
        struct.pack_into("=I", head, 0, 5)
        return [message(seq, 20, row(3)), bytes(head) + message(seq, 20, row(4)), done(seq)]

    def short(seq: int) -> list[bytes]:
        return [message(seq, 20, bytes(40)) + message(seq, 20, row(5)), done(seq)]

    for faulty, kept, bad in ((broken, [3], 0), (short, [5], 1)):
        table = Table(sockets(1), faulty, sockets(8, 9))
        assert table.waiting.decode(table.decoder) == [1, 1, 2]
        assert table.cookies == [1, *kept, 8, 9]
        assert [dump.outcome.name for dump in table.dumps] == ["ok", "corrupt", "ok"]
        assert [dump.bad for dump in table.dumps] == [0, bad, 0]


def test_answers_to_another_request_are_no_rows() -> None:
    def foreign(seq: int) -> list[bytes]:
        stranger = message(seq, 20, row(2), portid=1)
        return [message(seq ^ 1, 20, row(1)) + stranger + message(seq, 20, row(3)), done(seq)]

    table = Table(sockets(6), foreign, sockets(7))
    assert table.waiting.decode(table.decoder) == [1, 1, 1]
    assert table.cookies == [6, 3, 7]
    assert {dump.outcome.name for dump in table.dumps} == {"ok"}


@pytest.mark.parametrize("count", [1, 2])
def test_each_dump_is_answered_to_its_own_port(count: int) -> None:
    waiting, decoder = Waiting(), InetDiag("tcp", (6, 18))
    for port in range(1, count + 1):
        raw = message(waiting.seq, 20, row(port), port) + message(waiting.seq, 20, row(99), 77)
        raw += message(waiting.seq, 3, bytes(4), port)
        waiting.add(raw, [(0, len(raw))], port, Dump())
    assert waiting.decode(decoder) == [1] * count
    assert np.asarray(decoder.columns["cookie"]).tolist() == list(range(1, count + 1))


def test_attributes_that_are_unknown_are_counted_once_each() -> None:
    strange = row(1) + struct.pack("=HHI", 8, 31, 0)

    def reply(seq: int) -> list[bytes]:
        return [message(seq, 20, strange), done(seq)]

    table = Table(reply, reply)
    table.waiting.decode(table.decoder)
    assert sum(dump.unknown.get("31", 0) for dump in table.dumps) == 2


class Namespace:
    """Answers every dump with the same sockets."""

    def __init__(self, *cookies: int) -> None:
        self._cookies = cookies

    def dump(self, kind: int, body: bytes, decode: Decode, waiting: Waiting | None = None) -> Dump:
        diag = DiagSocket(FakeKernel(sockets(*self._cookies)).connect)
        try:
            return diag.dump(kind, body, decode, waiting)
        finally:
            diag.close()

    def read_file(self, name: str) -> bytes:
        raise FileNotFoundError(errno.ENOENT, name)


def test_a_socket_given_twice_is_one_row_of_each_namespace_that_has_it() -> None:
    (step,) = Steps(parse_query("tcp"), (6, 18))
    readings = [step.read(Namespace(*cookies), n, 0) for n, cookies in enumerate([[5, 6, 5], [6]])]
    step.finish()
    assert [(one.rows, one.dump.repeated) for one in readings] == [(2, 1), (1, 0)]
    assert [one.counted().tolist() for one in readings] == [[5, 6], [6]]
    gathered = step.ways[0].gathered
    assert gathered.netns().tolist() == [0, 0, 1]
    assert gathered.places().tolist() == [0, 1]
