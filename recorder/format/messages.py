"""What pyarrow does not tell of a message of an Arrow IPC stream.

The layout is that of Message.fbs and Schema.fbs of the Arrow format, as FlatBuffers: little-endian;
a table begins with the distance back to its vtable, which holds the place of each field, 0 if it is
left out. pyarrow has verified a message before it hands it over, so that every place is inside.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

# Places of the fields in the vtables.
_HEADER, _CUSTOM_METADATA = 2, 4  # of Message
_DICTIONARY_ID = 0  # of DictionaryBatch
_KEY, _VALUE = 0, 1  # of KeyValue


def custom_metadata(message: pa.Message) -> dict[bytes, bytes]:
    """Return the metadata that a message carries beside its header."""
    data = memoryview(message.metadata)
    vector = _reference(data, _u32(data, 0), _CUSTOM_METADATA)
    return dict(_pairs(data, vector)) if vector is not None else {}


def dictionary_id(message: pa.Message) -> int:
    """Return which dictionary a message of type ``dictionary`` replaces or extends."""
    data = memoryview(message.metadata)
    header = _reference(data, _u32(data, 0), _HEADER)
    if header is None:
        raise ValueError("a message without a header")
    place = _field(data, header, _DICTIONARY_ID)
    return int.from_bytes(data[place : place + 8], "little", signed=True) if place else 0


def _pairs(data: memoryview, vector: int) -> Iterator[tuple[bytes, bytes]]:
    for index in range(_u32(data, vector)):
        slot = vector + 4 + 4 * index
        pair = slot + _u32(data, slot)
        yield _text(data, pair, _KEY), _text(data, pair, _VALUE)


def _text(data: memoryview, table: int, field: int) -> bytes:
    place = _reference(data, table, field)
    return bytes(data[place + 4 : place + 4 + _u32(data, place)]) if place is not None else b""


def _reference(data: memoryview, table: int, field: int) -> int | None:
    """Return where the table, vector or string is that a field refers to."""
    place = _field(data, table, field)
    return place + _u32(data, place) if place else None


def _field(data: memoryview, table: int, field: int) -> int:
    """Return where a field of a table is, 0 if it is left out."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    slot = 4 + 2 * field
    if slot + 2 > size:
        return 0
    (distance,) = struct.unpack_from("<H", data, vtable + slot)
    return table + int(distance) if distance else 0


def _u32(data: memoryview, place: int) -> int:
    (value,) = struct.unpack_from("<I", data, place)
    return int(value)
