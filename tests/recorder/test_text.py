"""Addresses and names become text as the C library and ss write them."""

from __future__ import annotations

import socket

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from recorder import text

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
