"""The decoder against the real ss, on messages no live socket can be made to give.

Messages are encoded by messages.py, given to ``ss`` by TCPDIAG_FILE and to the decoder as bytes.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.diag.inet_diag import InetDiag
from recorder.diag.unix_diag import UnixDiag
from recorder.wire.netlink import Dump, Framing
from tests.recorder.support import messages, strategies
from tests.recorder.support.messages import (
    InetMessage,
    Md5Key,
    UnixMessage,
    Value,
    datagrams,
    tcp_info,
)
from tests.recorder.support.rows import Decoder, Row, batch_of, decode, feed
from tests.recorder.support.ss_oracle import Oracle
from tests.recorder.support.ss_words import COLUMNS, SsRow, parse, timer_range, users

DUMPS = Path(__file__).parents[1] / "dumps"
LINUX_6, LINUX_7 = (6, 18), (7, 0)

SOCKET: dict[str, Value] = {
    "family": "inet",
    "netid": "tcp",
    "state": "ESTAB",
    "recv_q": 1,
    "send_q": 2,
    "local_addr": "192.0.2.1",
    "local_port": 443,
    "peer_addr": "198.51.100.9",
    "peer_port": 50_000,
    "interface": None,
    "timer": None,
    "expires_ms": None,
    "retrans": 0,
    "uid": 1000,
    "inode": 77,
    "cookie": 0x1_0000_0001,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tcpdiag") / "dump"


def tcp_rows(sent: list[InetMessage], release: tuple[int, int] = LINUX_6) -> list[Row]:
    """Decode TCP messages, none of which may be refused."""
    rows, framing, dump = decode(datagrams(sent), InetDiag("tcp", release))
    assert (dump.bad, framing.corrupt, framing.done) == (0, 0, 0)
    assert len(rows) == len(sent)
    return rows


def agreed(oracle: Oracle, file: Path, sent: list[InetMessage]) -> list[tuple[Row, SsRow]]:
    """Give the same messages to ss and to the decoder, and fail where they disagree."""
    file.write_bytes(messages.dump(sent))
    printed = oracle.run("-ntaimeo", dump=file)
    rows = tcp_rows(sent)
    assert len(printed) == len(sent)
    pairs = list(zip(rows, printed, strict=True))
    disagreements = [
        f"message {place}: {sentence}"
        for place, (row, ss) in enumerate(pairs)
        for sentence in oracle.disagreements(ss, without_owner(row))
    ]
    assert disagreements == []
    return pairs


def without_owner(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "pid"}


def numbered(sent: list[InetMessage]) -> list[InetMessage]:
    return [
        dataclasses.replace(one, row={**one.row, "cookie": place + 1})
        for place, one in enumerate(sent)
    ]


# against ss


@pytest.mark.parametrize("length", messages.TCP_INFO_LENGTHS)
def test_every_state_with_tcp_info_of_any_age_reads_as_ss_prints_it(
    oracle: Oracle, file: Path, length: int
) -> None:
    one_of_each = st.tuples(
        *(
            strategies.tcp_messages(states=(state,), lengths=(length,), full=True)
            for state in messages.STATES
        )
    )

    @settings(max_examples=20)
    @given(one_of_each)
    def check(sent: tuple[InetMessage, ...]) -> None:
        pairs = agreed(oracle, file, numbered(list(sent)))
        assert {row["state"] for row, _ in pairs} == messages.STATES.keys()

    check()


@settings(max_examples=60)
@given(sent=st.lists(strategies.tcp_messages(), min_size=1, max_size=40).map(numbered))
def test_a_mixed_dump_reads_as_ss_prints_it(
    oracle: Oracle, file: Path, sent: list[InetMessage]
) -> None:
    agreed(oracle, file, sent)


@pytest.mark.parametrize("length", [281, 284, 288, 296, 512])
def test_a_longer_tcp_info_of_a_kernel_to_come_is_read_as_far_as_it_is_known(
    oracle: Oracle, file: Path, length: int
) -> None:
    known = bytes(1 + place % 100 for place in range(280))
    longer = known + b"\xff" * (length - 280)
    pairs = agreed(oracle, file, [InetMessage(SOCKET, longer), InetMessage(SOCKET, longer[:280])])
    assert pairs[0][0] == pairs[1][0]


def all_of_it() -> list[InetMessage]:
    """Sockets that together make ss print every word it knows for TCP."""
    numbers: dict[str, Value] = {
        name: 1000 + place
        for place, name in enumerate(messages.TCP_INFO_COLUMNS)
        if name not in ("options2", "accecn_fail_mode", "accecn_opt_seen", "ecn_mode")
    }
    small: dict[str, Value] = {"tcpi_state": 1, "ca_state": 1, "retransmits": 3, "probes": 5}
    small |= {"backoff": 4, "options": 0x7F, "snd_wscale": 7, "rcv_wscale": 9}
    small |= {"delivery_rate_app_limited": True, "fastopen_client_fail": 1}
    info = tcp_info(numbers | small)
    common: dict[str, Value] = {
        "timer": "on",
        "expires_ms": 204,
        "retrans": 2,
        "interface": 1,
        "shutdown": 2,
        "mark": 0xBEEF,
        "cgroup_id": 0xFFFF_FFFF_FFFF,
        "tos": 0x10,
        "class_id": 5,
        "sockopt": 0x7FF,
        **{name: 40 + place for place, name in enumerate(messages.SKMEMINFO_COLUMNS)},
    }
    tls: dict[str, Value] = {"ulp": "tls", "tls_version": 771, "tls_cipher": 51, "tls_txconf": 2}
    tls |= {"tls_rxconf": 3, "tls_zc_ro_tx": True, "tls_rx_no_pad": True}
    mptcp: dict[str, Value] = {"ulp": "mptcp", "mptcp_flags": 0x1FF}
    numbered_from_300 = enumerate(name for _, code, name in messages.MPTCP_FIELDS if code != "B")
    mptcp |= {name: 300 + place for place, name in numbered_from_300 if name != "mptcp_flags"}
    mptcp |= {"mptcp_id_rem": 1, "mptcp_id_loc": 2}
    bbr = dict(zip(messages.BBR_COLUMNS, (999, 88, 739, 512), strict=True))
    dctcp = dict(zip(messages.DCTCP_COLUMNS, (1, 1, 77, 66, 55), strict=True))
    memory: dict[str, Value] = {**dict.fromkeys(messages.SKMEMINFO_COLUMNS)}
    memory |= {name: 60 + place for place, name in enumerate(messages.MEMINFO_COLUMNS)}
    v6: dict[str, Value] = {"family": "inet6", "local_addr": "::", "peer_addr": "::"}
    v6 |= {"state": "LISTEN", "v6only": True, "tclass": 0x20}
    return numbered(
        [
            InetMessage({**SOCKET, **common, **tls, **bbr, "cong": "bbr"}, info),
            InetMessage({**SOCKET, **common, **mptcp, **dctcp, "cong": "dctcp"}, info),
            InetMessage({**SOCKET, **common, **memory, **v6}, info),
        ]
    )


def test_no_word_of_ss_goes_uncompared(oracle: Oracle, file: Path) -> None:
    pairs = agreed(oracle, file, all_of_it())
    printed = {key for _, ss in pairs for key in ss}
    later = {"rcv_wnd", "rehash", "usec_ts", "tls_rx_no_pad"} if oracle.release < (6, 8) else set()
    elsewhere = {"vfs_inode", "vfs_dev", "icons", "md5_keys", "dctcp_enabled"}
    assert COLUMNS - printed == later | elsewhere


def test_the_oracle_notices_every_wrong_value(oracle: Oracle, file: Path) -> None:
    unnoticed = set()
    for row, ss in agreed(oracle, file, all_of_it()):
        for column in ss.keys() & row.keys():
            value = row[column]
            wrong: list[object]
            if isinstance(value, bool):
                wrong = [not value]
            elif isinstance(value, int):
                wrong = [value * 2 + 1, value ^ 1]  # neither is seen of every bit mask or clock
            else:
                wrong = [None if column in ("cong", "ulp", "timer") else f"{value}0"]
            rows = [without_owner({**row, column: other}) for other in wrong]
            if not any(oracle.disagreements(ss, other) for other in rows):
                unnoticed.add(column)
    assert unnoticed == set()


def test_a_captured_dump_of_this_kernel_reads_as_ss_prints_it(oracle: Oracle) -> None:
    data = (DUMPS / "tcp.bin").read_bytes()
    rows, framing, dump = captured("tcp", InetDiag("tcp", LINUX_6))
    printed = oracle.run("-ntaimeo", dump=DUMPS / "tcp.bin")
    assert len(rows) == len(printed) == 51
    assert len(data) > 20_000
    assert (framing.done, dump.bad, dump.unknown) == (0, 0, {})
    for row, ss in zip(rows, printed, strict=True):
        assert oracle.disagreements(ss, without_owner(row)) == []


# against the encoder alone, for what ss does not show


@given(sent=strategies.tcp_dumps())
def test_a_tcp_dump_is_decoded_to_what_was_encoded(sent: list[InetMessage]) -> None:
    for one, row in zip(sent, tcp_rows(sent), strict=True):
        assert only_decoded(row) == one.expected()


@given(sent=st.lists(strategies.udp_messages(), max_size=40))
def test_a_udp_dump_is_decoded_to_what_was_encoded(sent: list[InetMessage]) -> None:
    rows, _, dump = decode(datagrams(sent), InetDiag("udp", LINUX_6))
    assert dump.bad == 0
    assert [only_decoded(row) for row in rows] == [one.expected() for one in sent]


@given(sent=st.lists(strategies.unix_messages(), max_size=40))
def test_a_unix_dump_is_decoded_to_what_was_encoded(sent: list[UnixMessage]) -> None:
    rows, _, dump = decode(datagrams(sent), UnixDiag())
    assert dump.bad == 0
    assert [only_decoded(row) for row in rows] == [one.expected() for one in sent]


def only_decoded(row: Row) -> Row:
    return {name: row[name] for name in messages.COLUMNS}


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_a_dump_may_have_any_number_of_messages_and_datagrams(count: int) -> None:
    sent = numbered([InetMessage(SOCKET, tcp_info({"rto_us": 1}))] * count)
    assert [row["cookie"] for row in tcp_rows(sent)] == list(range(1, count + 1))
    assert len(datagrams(sent)) == (6 if count == 500 else 1)


def test_bytes_276_to_279_are_read_as_the_kernel_release_says() -> None:
    info = tcp_info({"ecn_mode": 2, "accecn_opt_seen": 3, "accecn_fail_mode": 9, "options2": 77})
    (word,) = struct.unpack_from("=I", info, 276)
    (new,) = tcp_rows([InetMessage(SOCKET, info)], LINUX_7)
    (old,) = tcp_rows([InetMessage(SOCKET, info)], LINUX_6)
    columns = ("ecn_mode", "accecn_opt_seen", "accecn_fail_mode", "options2")
    assert [new[column] for column in columns] == [2, 3, 9, 77]
    assert [old[column] for column in columns] == [None, word >> 16, word & 0xFFFF, None]


def test_a_timer_that_an_old_kernel_shows_as_fired_long_ago_has_no_time_left() -> None:
    row: dict[str, Value] = {**SOCKET, "timer": "keepalive", "expires_ms": 0xFFFF_FF00}
    assert [one["expires_ms"] for one in tcp_rows([InetMessage(row)])] == [0]


@given(
    keys=st.lists(strategies.md5_keys(), min_size=1, max_size=5),
    order=st.integers(0, 100),
    info=st.one_of(st.none(), strategies.tcp_infos()),
)
def test_md5_keys_are_counted_and_never_in_a_row(
    keys: list[Md5Key], order: int, info: bytes | None
) -> None:
    plain = InetMessage(SOCKET, info, order=order)
    signed = dataclasses.replace(plain, md5=tuple(keys))
    assert b"SECRET" in signed.encode()
    decoder = InetDiag("tcp", LINUX_6)
    rows, _, _ = decode(datagrams([plain, signed, plain]), decoder)
    assert [row.pop("md5_keys") for row in rows] == [None, len(keys), None]
    assert rows[0] == rows[1] == rows[2]
    assert b"SECRET" not in batch_of(decoder).serialize().to_pybytes()


def test_what_lies_under_null_is_no_memory_that_held_a_key() -> None:
    keys = tuple(Md5Key("192.0.2.7", 32, b"SECRET" * 13) for _ in range(2))
    without_info = [InetMessage(SOCKET, md5=keys)] * 400
    with_info = [InetMessage(SOCKET, tcp_info({"rto_us": 1}, 104), md5=keys)] * 400
    for _ in range(20):
        freed = [b"SECRET" * 700 + bytes([number % 256]) for number in range(2000)]
        del freed  # memory to be used again
        decoder = InetDiag("tcp", LINUX_6)
        for chunk in (without_info, with_info):
            feed(datagrams(chunk), decoder)
        assert b"SECRET" not in batch_of(decoder).serialize().to_pybytes()


@pytest.mark.parametrize("table", ["udp4", "udp6", "unix"])
def test_captured_dumps_of_this_kernel_are_decoded_whole(table: str) -> None:
    decoder = UnixDiag() if table == "unix" else InetDiag("udp", LINUX_6)
    rows, framing, dump = captured(table, decoder)
    assert len(rows) == {"udp4": 16, "udp6": 32, "unix": 84}[table]
    assert (framing.done, framing.corrupt, dump.bad, dump.unknown) == (0, 0, 0, {})
    families = {"udp4": {"inet"}, "udp6": {"inet6"}, "unix": {"unix"}}
    assert {row["family"] for row in rows} == families[table]
    assert len({row["cookie"] for row in rows}) == len(rows)


def captured(table: str, decoder: Decoder) -> tuple[list[Row], Framing, Dump]:
    data = (DUMPS / f"{table}.bin").read_bytes()
    seq, portid = struct.unpack_from("=II", data, 8)
    return decode([data], decoder, seq=seq, portid=portid)


# the oracle itself


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("", 0, 0),
        ("004ms", 4, 4),
        ("896ms", 896, 896),
        ("9.373ms", 9_373, 9_373),
        ("9.373sec", 9_373, 9_373),
        ("5sec", 5_000, 5_000),
        ("59sec", 59_000, 59_999),
        ("1min59sec", 119_000, 119_999),
        ("119min", 7_140_000, 7_199_999),
    ],
)
def test_timers_of_ss_are_read_with_their_rounding(text: str, first: int, last: int) -> None:
    assert timer_range(text) == (first, last)


def test_rows_of_newer_releases_are_read() -> None:
    (row,) = parse(
        "tcp   ESTAB 0      0      [::1]%lo:80    [::ffff:127.0.0.1]:40000"
        ' users:(("a b",pid=7,fd=3),("(c)",pid=8,tid=9,fd=4)) timer:(delack,9.373sec,0) uid:5'
        " ino:12 sk:1f fwmark:0x7 cgroup:/x v6only:0 <-> ts usec_ts sack cubic wscale:7,7 rto:201"
        " rtt:0.05/0.02 rcv_wnd:65536 rehash:3 tcp-ulp-tls version: 1.3 cipher: aes-gcm-128"
        " rxconf: sw txconf: sw no_pad_rx"
    )
    assert row["interface"] == "lo"
    assert users(row) == [("a b", 7, 3), ("(c)", 8, 4)]
    assert (row["timer"], row["expires_ms"]) == ("delack", "9.373sec")
    assert (row["rcv_wnd"], row["rehash"], row["cong"]) == ("65536", "3", "cubic")
    assert {"ts", "usec_ts", "sack", "tls_rx_no_pad"} <= row.keys()
    assert "unparsed" not in row


def test_rows_of_unix_sockets_are_read() -> None:
    row, unnamed = parse(
        'u_seq LISTEN 3 8 /run/a b 200   * 0 users:(("x",pid=1,fd=2)) skmem:(r0,rb212992,t0,'
        "tb212992,f0,w0,o0,bl0,d0) <-> ino:5 dev:0/65024 peers: 201 202 203\n"
        "u_str ESTAB  0 0         * 300   * 301  <-- \n"
    )
    assert (row["local_addr"], row["inode"], row["icons"]) == ("/run/a b", "200", "201,202,203")
    assert (row["vfs_inode"], row["vfs_dev"], row["shutdown"]) == ("5", "0/65024", "<->")
    assert (unnamed["local_addr"], unnamed["peer_inode"]) == ("*", "301")
    assert unnamed["shutdown"] == "<--"


def test_a_word_the_oracle_does_not_know_is_a_disagreement(oracle: Oracle, file: Path) -> None:
    ((row, ss),) = agreed(oracle, file, [InetMessage(SOCKET, tcp_info({"rto_us": 1}))])
    (strange,) = parse("ESTAB 0 0 1.2.3.4:5 1.2.3.4:5 newword:17")
    assert strange["unparsed"] == "newword:17"
    assert oracle.disagreements(ss | {"unparsed": "newword:17"}, without_owner(row)) != []
