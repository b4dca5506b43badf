"""Bytes of the kernel → text columns, without looking at one row at a time."""

from __future__ import annotations

import socket

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_OCTETS = pa.array([str(n) for n in range(256)])


def ipv4_text(addresses: npt.NDArray[np.uint32]) -> pa.StringArray:
    """Return the dotted form of addresses given as they lie in memory, in network byte order."""
    octets = np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 4)
    return pc.binary_join_element_wise(
        *(_OCTETS.take(pa.array(octets[:, n])) for n in range(4)), "."
    )


def ipv6_text(addresses: npt.NDArray[np.uint8]) -> pa.StringArray:
    """Return the text of N×16 bytes as inet_ntop(3) writes it (RFC 5952, embedded IPv4 dotted).

    Addresses are grouped by where their longest run of zeros lies; there are 37 such groups.
    """
    count = len(addresses)
    groups = np.ascontiguousarray(addresses).view(">u2").reshape(-1, 8).astype(np.uint16)
    zero = groups == 0
    run = np.zeros((count, 9), np.int8)  # run[:, i]: zeros from group i on
    for i in range(7, -1, -1):
        run[:, i] = np.where(zero[:, i], run[:, i + 1] + 1, 0)
    first = np.argmax(run[:, :8], axis=1)
    length = run[np.arange(count), first]
    first = np.where(length >= 2, first, 8)
    length = np.where(length >= 2, length, 0)
    # inet_ntop writes ::a.b.c.d and ::ffff:a.b.c.d with a dotted tail
    dotted = (first == 0) & ((length == 6) | ((length == 5) & (groups[:, 5] == 0xFFFF)))
    shape = first * 32 + length * 2 + dotted
    pieces: list[pa.Array] = []
    order: list[npt.NDArray[np.int64]] = []
    for value in np.unique(shape).tolist():
        rows = np.flatnonzero(shape == value)
        order.append(rows)
        at, zeros, tail = value // 32, value % 32 // 2, value % 2
        stop = 6 if tail else 8
        words = [_hex(groups[rows, n]) for n in range(8)]
        left = _join(words[:at] if at < 8 else words[:stop], ":")
        right_words = words[at + zeros : stop] if at < 8 else []
        if tail:
            right_words.append(ipv4_text(_word32(addresses[rows])))
        right = _join(right_words, ":")
        if at == 8:
            pieces.append(left)
        else:
            empty = pa.repeat(pa.scalar(""), len(rows))
            pieces.append(
                pc.binary_join_element_wise(
                    empty if left is None else left, empty if right is None else right, "::"
                )
            )
    if not pieces:
        return pa.array([], pa.string())
    back = np.empty(count, np.int64)
    back[np.concatenate(order)] = np.arange(count)
    return pa.concat_arrays(pieces).take(pa.array(back))


def _word32(addresses: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(addresses[:, 12:]).view(np.uint32).reshape(-1)


def _join(words: list[pa.Array], between: str) -> pa.Array | None:
    if not words:
        return None
    return words[0] if len(words) == 1 else pc.binary_join_element_wise(*words, between)


def _hex(values: npt.NDArray[np.uint16]) -> pa.Array:
    distinct, codes = np.unique(values, return_inverse=True)
    return pa.array([f"{value:x}" for value in distinct.tolist()]).take(pa.array(codes))


def addresses(
    family: npt.NDArray[np.uint8], raw: npt.NDArray[np.void], inet: int
) -> pa.DictionaryArray:
    """Return the text of 16-byte address fields; rows whose family is ``inet`` use 4 bytes."""
    is_v4 = family == inet
    if is_v4.all():
        codes, text = _ipv4_codes(raw)
        return pa.DictionaryArray.from_arrays(codes, text)
    if not is_v4.any():
        codes, text = _ipv6_codes(raw)
        return pa.DictionaryArray.from_arrays(codes, text)
    four, text4 = _ipv4_codes(raw[is_v4])
    six, text6 = _ipv6_codes(raw[~is_v4])
    merged = np.empty(len(raw), np.int32)
    merged[is_v4] = four.to_numpy()
    merged[~is_v4] = six.to_numpy() + len(text4)
    return pa.DictionaryArray.from_arrays(pa.array(merged), pa.concat_arrays([text4, text6]))


def _ipv4_codes(raw: npt.NDArray[np.void]) -> tuple[pa.Array, pa.Array]:
    words = np.ascontiguousarray(raw.view(np.uint32).reshape(-1, 4)[:, 0])
    coded = pa.array(words).dictionary_encode()
    return coded.indices, ipv4_text(coded.dictionary.to_numpy())


def _ipv6_codes(raw: npt.NDArray[np.void]) -> tuple[pa.Array, pa.Array]:
    coded = _fixed(raw).dictionary_encode()
    data = np.frombuffer(coded.dictionary.buffers()[1], np.uint8, 16 * len(coded.dictionary))
    return coded.indices, ipv6_text(data.reshape(-1, 16))


def _fixed(raw: npt.NDArray[np.void]) -> pa.FixedSizeBinaryArray:
    raw = np.ascontiguousarray(raw)
    return pa.Array.from_buffers(pa.binary(raw.itemsize), len(raw), [None, pa.py_buffer(raw)])


def decode(texts: list[bytes]) -> list[str]:
    """Return bytes as text; what is not UTF-8 becomes \\xNN, so nothing is lost or refused."""
    return [text.decode("utf-8", "backslashreplace") for text in texts]


def names(
    raw: npt.NDArray[np.void], valid: npt.NDArray[np.bool_] | None = None
) -> pa.DictionaryArray:
    """Return short NUL-padded names (an algorithm, a protocol) of which there are few kinds."""
    coded = _fixed(raw).dictionary_encode()
    text = decode([value.split(b"\0", 1)[0] for value in coded.dictionary.to_pylist()])
    codes = coded.indices
    if valid is not None:
        codes = pa.array(codes.to_numpy(), mask=~valid)
    return pa.DictionaryArray.from_arrays(codes, pa.array(text, pa.string()))


def joined(
    data: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]
) -> pa.StringArray:
    """Return N texts from N×W bytes of which each row uses its first ``lengths`` bytes.

    NULs inside a text become @, as ss prints them. Rows of ``mask`` are NULL.
    """
    count, width = data.shape
    if count == 0:
        return pa.array([], pa.string())
    used = np.arange(width + 1)[None, :] <= lengths[:, None]
    padded = np.zeros((count, width + 1), np.uint8)
    padded[:, :width] = np.where(data == 0, ord("@"), data)
    padded[np.arange(count), lengths] = 0  # a NUL ends each text, and is in none
    flat = padded[used].tobytes()[:-1]
    text = flat.decode("utf-8", "backslashreplace").split("\0")
    return pa.array(text, pa.string(), mask=mask)


def hexadecimal(data: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> pa.StringArray:
    """Return link layer addresses, such as 01:00:5e:00:00:01, of which N×W bytes hold ``lengths``.

    One of no bytes is NULL.
    """
    count, width = data.shape
    written = np.full((count, width, 3), ord(":"), np.uint8)
    written[:, :, 0] = _DIGITS[data >> 4]
    written[:, :, 1] = _DIGITS[data & 15]
    flat = written.reshape(count, 3 * width)
    return joined(flat, np.maximum(3 * lengths - 1, 0), lengths == 0)


_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def socket_addresses(raw: npt.NDArray[np.uint8]) -> pa.StringArray:
    """Return the addresses, without ports, of N×128 bytes of struct sockaddr_storage."""
    family = raw[:, :2].copy().view(np.uint16).reshape(-1)
    is_v4 = family == socket.AF_INET
    sixteen = np.zeros((len(raw), 16), np.uint8)
    sixteen[is_v4, :4] = raw[is_v4, 4:8]
    sixteen[~is_v4] = raw[~is_v4, 8:24]
    narrow = np.where(is_v4, socket.AF_INET, socket.AF_INET6).astype(np.uint8)
    return addresses(narrow, sixteen.view("V16").reshape(-1), socket.AF_INET).cast(pa.string())
