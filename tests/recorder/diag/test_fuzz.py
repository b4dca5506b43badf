"""Whatever bytes come: rows or a counted fault, in bounded time, and never a wrong read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.diag.inet_diag import InetDiag
from recorder.diag.unix_diag import UnixDiag
from recorder.wire.netlink import HEADER, Framing
from tests.recorder.support.rows import Decoder, Row, decode

DUMPS = Path(__file__).parents[1] / "dumps"
CAPTURED = {name: (DUMPS / f"{name}.bin").read_bytes() for name in ("tcp", "udp4", "udp6", "unix")}


def decoder_of(name: str) -> Decoder:
    return UnixDiag() if name == "unix" else InetDiag(name[:3], (6, 18))


def identity(data: bytes) -> tuple[int, int]:
    """Return the sequence and port number of the first message."""
    seq, portid = struct.unpack_from("=II", data, 8)
    return seq, portid


def run(name: str, data: bytes, seq: int, portid: int) -> tuple[list[Row], Framing, int]:
    rows, framing, dump = decode([data], decoder_of(name), seq=seq, portid=portid)
    return rows, framing, dump.bad


@given(st.sampled_from(sorted(CAPTURED)), st.binary(max_size=4096))
def test_arbitrary_bytes_give_rows_or_counted_faults(name: str, data: bytes) -> None:
    rows, framing, bad = run(name, data, 1, 0)
    assert len(rows) + bad == framing.offsets.size
    assert len(rows) <= len(data) // HEADER


@given(st.sampled_from(sorted(CAPTURED)), st.binary(max_size=600), st.integers(0, 80))
def test_arbitrary_attributes_in_a_whole_message_give_a_row_or_a_counted_fault(
    name: str, body: bytes, head: int
) -> None:
    body = bytes(head) + body
    data = struct.pack("=IHHII", HEADER + len(body), 20, 2, 7, 9) + body
    rows, framing, bad = run(name, data, 7, 9)
    assert framing.corrupt == 0
    assert len(rows) + bad == 1


@given(
    st.sampled_from(sorted(CAPTURED)),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=8),
)
def test_a_damaged_dump_gives_the_rows_it_still_has(
    name: str, flips: list[tuple[int, int]]
) -> None:
    whole = CAPTURED[name]
    data = bytearray(whole)
    for at, bits in flips:
        data[at % len(data)] ^= bits
    seq, portid = identity(whole)
    rows, framing, bad = run(name, bytes(data), seq, portid)
    assert len(rows) + bad == framing.offsets.size
    # each flip breaks one message at most, and a broken length hides the rest of its datagram
    if not framing.corrupt and not framing.foreign and not bad:
        intact, _, _ = run(name, whole, seq, portid)
        assert len(rows) >= len(intact) - 2 * len(flips)


@given(st.sampled_from(sorted(CAPTURED)), st.integers(0, 1 << 20))
def test_a_cut_dump_gives_the_messages_before_the_cut(name: str, cut: int) -> None:
    whole = CAPTURED[name]
    seq, portid = identity(whole)
    intact, _, _ = run(name, whole, seq, portid)
    cut %= len(whole)
    rows, framing, _ = run(name, whole[:cut], seq, portid)
    assert [known_alone(row) for row in rows] == [known_alone(row) for row in intact[: len(rows)]]
    assert framing.done is None or cut > len(whole) - 4
    ends = _message_ends(whole)
    assert len(rows) >= sum(end <= cut for end in ends[:-1])


def known_alone(row: Row) -> Row:
    """Return what one message tells: the name of a unix peer comes from the peer's own message."""
    return row if row["family"] != "unix" else {**row, "peer_addr": None}


def _message_ends(data: bytes) -> list[int]:
    ends, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("=I", data, at)
        at += (length + 3) & ~3
        ends.append(at)
    return ends


@pytest.mark.parametrize("name", sorted(CAPTURED))
def test_a_captured_dump_is_decoded_whole(name: str) -> None:
    data = CAPTURED[name]
    rows, framing, bad = run(name, data, *identity(data))
    assert len(rows) == len(_message_ends(data)) - 1
    assert (framing.done, framing.error, framing.corrupt, framing.foreign, bad) == (
        0,
        None,
        0,
        0,
        0,
    )
    assert len({row["cookie"] for row in rows}) == len(rows)


def test_a_message_of_countless_tiny_attributes_takes_no_longer_than_its_length() -> None:
    body = bytes(72) + struct.pack("=HH", 4, 200) * 8000
    data = struct.pack("=IHHII", HEADER + len(body), 20, 2, 7, 9) + body
    rows, _, dump = decode([data], InetDiag("tcp", (6, 18)), seq=7, portid=9)
    assert len(rows) == 1
    assert dump.unknown == {"200": 8000}


def test_a_payload_that_looks_like_a_message_head_is_not_taken_for_one() -> None:
    inner = struct.pack("=IHHII", 88, 20, 2, 7, 9)
    body = bytes(72) + struct.pack("=HH", 4 + len(inner), 200) + inner
    data = struct.pack("=IHHII", HEADER + len(body), 20, 2, 7, 9) + body
    rows, framing, dump = decode([data, data], InetDiag("tcp", (6, 18)), seq=7, portid=9)
    assert len(rows) == 2
    assert framing.corrupt == 0
    assert dump.unknown == {"200": 2}
