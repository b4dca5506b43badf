"""No row shows memory of another: neither of the dump before, nor of what is dumped after it.

The arrays of a dump are used again by the next, and batches share them until they are written. So
every place that is read without having been written, or written too early, shows whatever was
there. The tests fill such places with two different bytes and compare.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.diag.inet_diag import InetDiag
from recorder.diag.unix_diag import UnixDiag
from recorder.procnet.tables import ProcNet
from recorder.schema import RECORDING_FILE, SOCKETS
from recorder.store.directory import Directory
from recorder.store.journal import BatchMaker, Journals
from recorder.wire.netlink import Dump
from tests.recorder.diag.test_families import DECODERS, WHOLE
from tests.recorder.procnet.test_procnet import SCTP, TCP_LINE
from tests.recorder.sampling.test_sampler import sampler_of
from tests.recorder.support import family_messages as made
from tests.recorder.support.fake_kernel import FakeKernel, Reply, done
from tests.recorder.support.journals import FACTS, journal_path, seal, segment_path
from tests.recorder.support.messages import InetMessage, tcp_info
from tests.recorder.support.poison import poisoned
from tests.recorder.support.rows import batch_of, feed, public
from tests.recorder.support.strategies import tcp_dumps, udp_messages, unix_messages

BYTES = (0x00, 0xA5)
CHUNK = 2
"""Messages of a chunk: what one has and the next has not is written of both."""


def memory(batch: pa.RecordBatch) -> dict[str, object]:
    """Return the bytes a journal gets of each column, those under a NULL too."""
    found: list[object] = []
    for array in batch.columns:
        words = None
        if pa.types.is_dictionary(array.type):
            words, array = array.dictionary.to_pylist(), array.indices
        size = len(array) * array.type.bit_width // 8
        data = array.buffers()[1].to_pybytes()[:size]
        found.append((data, array.is_null().to_pylist(), words))
    return dict(zip(batch.schema.names, found, strict=True))


def after(decoder: Any, *dumps: list[bytes]) -> list[object]:
    """Return what a journal gets of each of some dumps that one decoder decodes in chunks."""
    found: list[object] = []
    for datagrams in dumps:
        decoder.columns.clear()
        for place in range(0, len(datagrams), CHUNK):
            feed(datagrams[place : place + CHUNK], decoder)
        found.append(memory(batch_of(decoder)) if decoder.columns.rows else None)
    return found


def same_whatever_was_there(make: Callable[[], Any], *dumps: list[bytes]) -> None:
    found = []
    for byte in BYTES:
        with poisoned(byte):
            found.append(after(make(), *dumps))
    assert found[0] == found[1]
    # and a dump is what it is alone, whatever was decoded before it
    assert found[0] == [after(make(), dump)[0] for dump in dumps]


def encoded(messages: Iterable[Any]) -> list[bytes]:
    return [message.encode() for message in messages]


@given(tcp_dumps(), tcp_dumps())
def test_of_tcp_only_what_was_sent_is_written(first: list[Any], second: list[Any]) -> None:
    dumps = encoded(first), encoded(second)
    same_whatever_was_there(lambda: InetDiag("tcp", (6, 18)), *dumps)


@given(st.lists(udp_messages(), max_size=9), st.lists(udp_messages(), max_size=9))
def test_of_udp_only_what_was_sent_is_written(first: list[Any], second: list[Any]) -> None:
    same_whatever_was_there(lambda: InetDiag("udp", (6, 18)), encoded(first), encoded(second))


@given(st.lists(unix_messages(), max_size=9), st.lists(unix_messages(), max_size=9))
def test_of_unix_only_what_was_sent_is_written(first: list[Any], second: list[Any]) -> None:
    same_whatever_was_there(UnixDiag, encoded(first), encoded(second))


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_of_every_family_only_what_was_sent_is_written(name: str) -> None:
    body = WHOLE[name]
    cuts = [made.chunk(body[:end]) for end in range(len(body) + 1)]
    same_whatever_was_there(DECODERS[name], [made.chunk(body)] * 2, cuts, [made.chunk(body)])


@pytest.mark.parametrize(
    ("step", "file", "text"),
    [
        ("tcp", "tcp", b"sl\n" + TCP_LINE % 0 + (TCP_LINE % 1).replace(b" 20 4 30 10 -1", b"")),
        ("sctp", "sctp/eps", SCTP["sctp/eps"]),
        ("sctp6", "sctp/assocs", SCTP["sctp/assocs"]),
        ("netlink", "netlink", b"sk\n0000000075e1 4 14705 00000000 0 0 0 2 0 13040297\n"),
        ("packet", "packet", b"sk\n0000000066599994 2 3 0003 0 0 0 0 13040300\n"),
    ],
)
def test_of_proc_only_what_it_says_is_written(step: str, file: str, text: bytes) -> None:
    found = []
    for byte in BYTES:
        with poisoned(byte):
            table = ProcNet(step)
            for _ in range(2):
                table.columns.clear()
                table.parse(file, text, Dump())
            assert table.columns.rows
            found.append(memory(BatchMaker(SOCKETS).make(table.columns.rows, table.rows())))
    assert found[0] == found[1]


# from the dump through the journal and the segment to the view

SOCKET = {
    "family": "inet",
    "netid": "tcp",
    "state": "ESTAB",
    "local_addr": "10.0.0.1",
    "local_port": 443,
    "peer_addr": "10.0.0.2",
    "peer_port": 40000,
    "timer": None,
    "retrans": 0,
    "uid": 0,
    "inode": 0,
    "recv_q": 0,
    "send_q": 0,
}
COLUMNS = ("sample", "cookie", "tls_version", "fwd_alloc", "bytes_acked", "cong")
SAMPLES = 6


def tls(sample: int, number: int) -> dict[str, Any]:
    """Return a socket of TLS 1.2, of 1.3 or without, which it is changes from sample to sample."""
    version = (None, 771, 772)[(sample + number) % 3]
    upper = {"ulp": None} if version is None else {"ulp": "tls", "tls_version": version}
    memory = dict.fromkeys("rmem_alloc rcvbuf wmem_alloc sndbuf".split(), 0)
    memory |= {"fwd_alloc": -sample - number, "wmem_queued": 0, "optmem": 0}
    cong = {"cong": ("cubic", "bbr")[number % 2]} if number % 4 else {}
    return {**SOCKET, **upper, **memory, **cong, "cookie": number + 1}


def answering(sample: int, sockets: int) -> Reply:
    def reply(seq: int) -> list[bytes]:
        rows = [tls(sample, number) for number in range(sockets)]
        infos = [tcp_info({"bytes_acked": 1000 * sample + row["cookie"]}) for row in rows]
        messages = [
            InetMessage(row, info).encode(seq=seq, portid=4711)
            for row, info in zip(rows, infos, strict=True)
        ]
        return [*messages, done(seq)]

    return reply


def expected(sizes: list[int]) -> list[tuple[object, ...]]:
    rows = []
    for sample, size in enumerate(sizes):
        for number in range(size):
            row = tls(sample, number)
            acked = 1000 * sample + number + 1
            rows.append(
                (
                    sample,
                    number + 1,
                    row.get("tls_version"),
                    -sample - number,
                    acked,
                    row.get("cong"),
                )
            )
    return sorted(rows)


@pytest.mark.parametrize("byte", BYTES)
def test_what_a_dump_said_stands_in_journal_view_and_segment(tmp_path: Path, byte: int) -> None:
    sizes = [40, 25, 40, 3, 30, 40][:SAMPLES]  # fewer rows leave those of the dump before behind
    (tmp_path / RECORDING_FILE).write_text(json.dumps(FACTS))
    directory = Directory.open(tmp_path)
    kernel = FakeKernel(*(answering(number, size) for number, size in enumerate(sizes)))
    with poisoned(byte), sampler_of(kernel, "tcp") as sampler:
        journals = Journals(directory, 1)
        for number in range(SAMPLES):
            for table, batch in sampler.take(number).batches:
                journals.append(table, batch)
            journals.commit(number)
            for gathered in sampler.steps.gathered.values():
                gathered.decoder.columns.clear()  # which poisons what the batches shared
        journals.close()
    directory.close()

    with pa.ipc.open_stream(journal_path(tmp_path, "sockets", 1)) as stream:
        written: list[Any] = []
        while True:
            try:
                written += public(stream.read_next_batch()).select(COLUMNS).to_pylist()
            except (StopIteration, OSError, pa.ArrowInvalid):  # no end mark
                break
    assert sorted(tuple(row.values()) for row in written) == expected(sizes)
    assert sorted(asked(tmp_path)) == expected(sizes)
    seal(tmp_path, 1)
    sealed = pq.read_table(segment_path(tmp_path, "sockets", 1), columns=list(COLUMNS))
    assert sorted(tuple(row.values()) for row in sealed.to_pylist()) == expected(sizes)
    assert sorted(asked(tmp_path)) == expected(sizes)


def asked(recording: Path) -> list[tuple[object, ...]]:
    query = f"SELECT {', '.join(COLUMNS)} FROM sockets"
    command = [sys.executable, "-m", "sockrec", "sql", str(recording), query, "--format", "json"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return [tuple(row.values()) for row in json.loads(answer.stdout)]
