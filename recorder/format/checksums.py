"""Checksums of a segment: a CRC-32 of its footer and one of each column chunk, in its own metadata.

Parquet's page checksums are written too, but DuckDB does not look at them, and whoever does has to
decompress every page. These ones cover plain ranges of the file. The value of ``sockrec.checksums``
is text: ``crc32:``, then eight hexadecimal digits for the footer (the bytes between the last column
chunk and the footer's length, this text's digits taken as zeros), then eight for each column chunk,
row group after row group, each from its dictionary page, or else its first data page, to its end.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.format.files import FileError, read_range
from recorder.schema import METADATA_PREFIX

KEY = METADATA_PREFIX + "checksums"
MAX_FOOTER = 16 << 20
_MAX_ITEMS = 1_000_000
_FORM = "crc32:"
_DIGITS = 8
_VALUE = re.compile(rb"crc32:[0-9a-f]{16}")
_WHOLE = re.compile(rb"crc32:[0-9a-f]*")
_TAIL = struct.Struct("<I4s")
_PIECE = 1 << 22


class ChecksumError(FileError):
    """A segment of which bytes are not those that were written."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where the values of one column in one row group are: bytes of the file, half-open."""

    group: int
    column: str
    start: int
    end: int


def chunks(
    metadata: pq.FileMetaData, columns: Collection[str] | None = None
) -> Iterator[tuple[int, Chunk]]:
    """Yield the column chunks of a file, of some columns, each with its place among all."""
    names = metadata.schema.names
    wanted = [i for i, name in enumerate(names) if columns is None or name in columns]
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for index in wanted:
            column = rows.column(index)
            start = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            end = start + column.total_compressed_size
            yield group * len(names) + index, Chunk(group, names[index], start, end)


def blank(row_groups: int, columns: int) -> str:
    """Return the value for a file that is being written, to be filled in by ``fill_in``."""
    return _FORM + "0" * (_DIGITS * (1 + row_groups * columns))


def fill_in(path: Path, file: int) -> None:
    """Replace the blank value of a file that was just written by its checksums.

    ``file`` is a descriptor to read and write. Raises ChecksumError or OSError.
    """
    footer, start = _footer(path, file)
    metadata = read_footer(path, file)
    crcs = [_crc(path, file, chunk) for _, chunk in chunks(metadata)]
    empty = blank(1, len(crcs)).encode()
    place = footer.find(empty)
    if place < 0 or footer.find(empty, place + 1) >= 0:
        raise ChecksumError(f"{path}: has no place for its checksums")
    value = _FORM.encode() + b"".join(b"%08x" % crc for crc in (zlib.crc32(footer), *crcs))
    if os.pwrite(file, value, start + place) != len(value):
        raise ChecksumError(f"{path}: its checksums could not be written")


@dataclass(frozen=True, slots=True)
class Checksums:
    """The checksums that a segment carries: of its footer, and of the chunks in their order."""

    path: Path
    footer: int
    metadata: pq.FileMetaData
    crcs: bytes

    def damaged(self, file: int, columns: Collection[str] | None = None) -> Iterator[Chunk]:
        """Yield the chunks, of some columns, of which bytes are not those that were written.

        ``file`` is a descriptor; reading lets other threads run. Raises OSError.
        """
        for place, chunk in chunks(self.metadata, columns):
            crc = int(self.crcs[place * _DIGITS : (place + 1) * _DIGITS], 16)
            if _crc(self.path, file, chunk) != crc:
                yield chunk


def read_checksums(path: Path, file: int, metadata: pq.FileMetaData) -> Checksums | None:
    """Return the checksums of a segment whose footer is whole, None if it was made without.

    ``metadata`` is the footer as pyarrow read it. Raises ChecksumError if the footer is damaged.
    """
    value = (metadata.metadata or {}).get(KEY.encode())
    footer, _ = _footer(path, file)
    if value is None:
        if _VALUE.search(footer):  # under a key that is damaged
            raise ChecksumError(f"{path}: its footer is damaged")
        return None
    empty = blank(metadata.num_row_groups, metadata.num_columns).encode()
    if not _WHOLE.fullmatch(value) or len(value) != len(empty) or footer.count(value) != 1:
        raise ChecksumError(f"{path}: its footer is damaged")
    digits = value.removeprefix(_FORM.encode())
    crc = int(digits[:_DIGITS], 16)
    if zlib.crc32(footer.replace(value, empty)) != crc:
        raise ChecksumError(f"{path}: its footer is damaged")
    return Checksums(path, crc, metadata, digits[_DIGITS:])


def read_footer(path: Path, file: int) -> pq.FileMetaData:
    """Return the footer of a Parquet file, within the limits of what a segment may claim."""
    try:
        with os.fdopen(os.dup(file), "rb") as opened:
            return pq.ParquetFile(
                opened, thrift_string_size_limit=MAX_FOOTER, thrift_container_size_limit=_MAX_ITEMS
            ).metadata
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
            raise
        what = " ".join(str(error).split())
        raise ChecksumError(f"{path}: damaged Parquet file: {what}") from error


def _footer(path: Path, file: int) -> tuple[bytes, int]:
    """Return the footer of a Parquet file, and where it begins."""
    size = os.fstat(file).st_size
    tail = read_range(file, max(0, size - _TAIL.size), _TAIL.size, path)
    length, magic = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
    start = size - _TAIL.size - length
    if magic != b"PAR1" or start < 4:
        raise ChecksumError(f"{path}: is cut short, or no Parquet file")
    return read_range(file, start, length, path), start


def _crc(path: Path, file: int, chunk: Chunk) -> int:
    crc, start = 0, chunk.start
    while start < chunk.end:
        piece = read_range(file, start, min(_PIECE, chunk.end - start), path)
        if not piece:
            return -1  # no checksum: the file ends before
        crc = zlib.crc32(piece, crc)
        start += len(piece)
    return crc
