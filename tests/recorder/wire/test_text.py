"""Addresses and names become text as the C library and ss write them, details become JSON."""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from recorder.wire import details, text
from recorder.wire.columns import Values

IPV6 = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.lists(
        st.sampled_from([b"\0\0", b"\0\1", b"\xff\xff", b"\x0a\0"]), min_size=8, max_size=8
    ).map(b"".join),
)


@given(st.lists(IPV6, max_size=40))
@example([bytes(16), bytes(15) + b"\1", bytes(10) + b"\xff\xff" + b"\x7f\0\0\1", b"\1" * 16])
def test_ipv6_text_is_what_inet_ntop_writes(addresses: list[bytes]) -> None:
    raw = np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, 16)
    expected = [socket.inet_ntop(socket.AF_INET6, address) for address in addresses]
    assert text.ipv6_text(raw).to_pylist() == expected


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=40))
def test_ipv4_text_is_what_inet_ntoa_writes(addresses: list[bytes]) -> None:
    raw = np.frombuffer(b"".join(addresses), np.uint32)
    assert text.ipv4_text(raw).to_pylist() == [socket.inet_ntoa(a) for a in addresses]


@given(st.lists(st.tuples(st.booleans(), IPV6), max_size=40))
def test_mixed_families_keep_their_rows(rows: list[tuple[bool, bytes]]) -> None:
    family = np.array([socket.AF_INET if four else socket.AF_INET6 for four, _ in rows], np.uint8)
    raw = np.frombuffer(b"".join(address for _, address in rows), "V16")
    expected = [
        socket.inet_ntoa(address[:4]) if four else socket.inet_ntop(socket.AF_INET6, address)
        for four, address in rows
    ]
    assert text.addresses(family, raw, socket.AF_INET).to_pylist() == expected


@given(st.lists(st.one_of(st.none(), st.binary(max_size=108)), max_size=30))
def test_unix_names_keep_every_byte_and_nul_becomes_at(names: list[bytes | None]) -> None:
    data = np.zeros((len(names), 112), np.uint8)
    for row, name in enumerate(names):
        data[row, : len(name or b"")] = np.frombuffer(name or b"", np.uint8)
        data[row, len(name or b"") :] = 0xAA  # what lies behind a name is not part of it
    lengths = np.array([len(name or b"") for name in names], np.int64)
    mask = np.array([name is None for name in names], np.bool_)
    expected = [
        None if name is None else name.replace(b"\0", b"@").decode("utf-8", "backslashreplace")
        for name in names
    ]
    assert text.joined(data, lengths, mask).to_pylist() == expected


@given(st.lists(st.binary(max_size=32), max_size=20))
def test_link_layer_addresses_are_written_byte_by_byte(addresses: list[bytes]) -> None:
    data = np.full((len(addresses), 32), 0xAA, np.uint8)
    for row, address in enumerate(addresses):
        data[row, : len(address)] = np.frombuffer(address, np.uint8)
    lengths = np.array([len(address) for address in addresses], np.int64)
    expected = [address.hex(":") or None for address in addresses]
    assert text.hexadecimal(data, lengths).to_pylist() == expected


@given(st.lists(st.tuples(st.booleans(), IPV6), max_size=20))
def test_socket_addresses_are_written_without_their_ports(rows: list[tuple[bool, bytes]]) -> None:
    raw = b"".join(
        (b"\2\0\x12\x34" + address[:4] if four else b"\12\0\x12\x34\0\0\0\0" + address).ljust(128)
        for four, address in rows
    )
    expected = [
        socket.inet_ntoa(address[:4]) if four else socket.inet_ntop(socket.AF_INET6, address)
        for four, address in rows
    ]
    found = text.socket_addresses(np.frombuffer(raw, np.uint8).reshape(-1, 128))
    assert found.to_pylist() == expected


_MAYBE = st.one_of(st.none(), st.integers(0, (1 << 64) - 1))
_ROWS = st.lists(
    st.tuples(
        _MAYBE,
        _MAYBE,
        _MAYBE,
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.text(max_size=12)),
        st.lists(st.integers(0, 99), max_size=3),
    ),
    max_size=12,
)


def numbers(values: list[Any], kind: str) -> Values:
    valid = np.array([value is not None for value in values], np.bool_)
    return Values(np.array([value or 0 for value in values], kind), None if valid.all() else valid)


@given(_ROWS)
@example([(None, None, None, None, None, [])])
@example([(1, None, None, None, None, []), (None, None, None, None, None, [])])
def test_details_are_a_json_object_of_the_fields_that_are_not_null(
    rows: list[tuple[Any, ...]],
) -> None:
    first, second, third, flag, name, many = ([row[n] for row in rows] for n in range(6))
    fragments = pa.array([str(number) for each in many for number in each], pa.string())
    counts = np.array([len(each) for each in many], np.int64)
    fields = {
        "first": numbers(first, "<u8"),
        "nest.second": numbers(second, ">u8"),
        "nest.third": numbers(third, "<u8"),
        "flag": numbers(flag, "?"),
        "name": details.strings(pa.array(name, pa.string())),
        "many": details.arrays(fragments, counts),
    }
    expected = []
    for row in rows:
        nest = {"second": row[1], "third": row[2]}
        whole = {
            "first": row[0],
            "nest": {n: v for n, v in nest.items() if v is not None} or None,
            "flag": row[3],
            "name": row[4],
            "many": row[5] or None,
        }
        expected.append({n: v for n, v in whole.items() if v is not None} or None)
    column = details.column(fields, len(rows))
    assert pa.types.is_dictionary(column.type)
    found = [None if made is None else json.loads(made) for made in column.to_pylist()]
    assert found == expected
    assert details.column({}, len(rows)).to_pylist() == [None] * len(rows)
