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
_MOST_VALUES = 64
_VALUE = re.compile(rb"crc32:(?:[0-9a-f]{8})+")
_MAGIC = b"PAR1"
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
    crcs = [_crc(path, file, chunk) for _, chunk in chunks(_parsed(path, file))]
    empty = blank(1, len(crcs)).encode()
    # The last: whoever is recorded may have chosen words that look like it.
    place = footer.rfind(empty)
    if place < 0:
        raise ChecksumError(f"{path}: has no place for its checksums")
    value = _FORM.encode() + b"".join(b"%08x" % crc for crc in (zlib.crc32(footer), *crcs))
    if os.pwrite(file, value, start + place) != len(value):
        raise ChecksumError(f"{path}: its checksums could not be written")


@dataclass(frozen=True, slots=True)
class Checksums:
    """The checksums that a segment carries, whose footer is as it was written."""

    path: Path
    footer: int
    metadata: pq.FileMetaData
    digits: bytes
    """Eight for each chunk."""

    def damaged(self, file: int, columns: Collection[str] | None = None) -> Iterator[Chunk]:
        """Yield the chunks, of some columns, of which bytes are not those that were written.

        ``file`` is a descriptor; reading lets other threads run. Raises OSError.
        """
        for place, chunk in chunks(self.metadata, columns):
            crc = int(self.digits[place * _DIGITS : (place + 1) * _DIGITS], 16)
            if _crc(self.path, file, chunk) != crc:
                yield chunk


def read_footer(path: Path, file: int) -> tuple[pq.FileMetaData, Checksums | None]:
    """Return the footer of a segment, and its checksums, None if it was made without.

    The footer's own checksum is compared before pyarrow sees it: of some damage it would abort.
    Raises ChecksumError or OSError.
    """
    footer, _ = _footer(path, file)
    values = [match[0] for match in _VALUE.finditer(footer)]
    # A stranger may have put a million of them there.
    value = next((value for value in values[-_MOST_VALUES:] if _vouches(value, footer)), None)
    if values and value is None:
        raise ChecksumError(f"{path}: its footer is damaged")
    metadata = _parsed(path, file)
    if value is None:
        return metadata, None
    if len(value) != len(blank(metadata.num_row_groups, metadata.num_columns)):
        raise ChecksumError(f"{path}: has checksums of another file")
    digits = value.removeprefix(_FORM.encode())
    return metadata, Checksums(path, _first(value), metadata, digits[_DIGITS:])


def _vouches(value: bytes, footer: bytes) -> bool:
    """Tell whether a value is the checksums of this footer."""
    empty = _FORM.encode() + b"0" * (len(value) - len(_FORM))
    place = footer.rfind(value)
    blanked = footer[:place] + empty + footer[place + len(value) :]
    return zlib.crc32(blanked) == _first(value)


def _first(value: bytes) -> int:
    """Return the checksum of the footer."""
    return int(value.removeprefix(_FORM.encode())[:_DIGITS], 16)


def _parsed(path: Path, file: int) -> pq.FileMetaData:
    """Return the footer as pyarrow reads it, within the limits of what a segment may claim."""
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
    if size < len(_MAGIC) + _TAIL.size or read_range(file, 0, len(_MAGIC), path) != _MAGIC:
        raise ChecksumError(f"{path}: not a Parquet file")
    tail = read_range(file, size - _TAIL.size, _TAIL.size, path)
    length, magic = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
    if magic != _MAGIC:
        raise ChecksumError(f"{path}: the Parquet file is cut short or encrypted")
    start = size - _TAIL.size - length
    if length > MAX_FOOTER or start < len(_MAGIC):
        raise ChecksumError(f"{path}: its Parquet footer claims {length:,} bytes")
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
