"""Runs the recorder's decoders for tests: bytes or the live kernel → rows with public types."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from recorder.diag.inet_diag import InetDiag
from recorder.diag.unix_diag import UnixDiag
from recorder.kernel.transport import DiagSocket
from recorder.schema import SOCKETS, public_schema
from recorder.store.journal import BatchMaker
from recorder.wire.netlink import PAD, Dump, Framing, frame

Decoder: TypeAlias = InetDiag | UnixDiag
Row: TypeAlias = dict[str, object]


def release() -> tuple[int, int]:
    """Return the release of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def decode(
    datagrams: Iterable[bytes], decoder: Decoder, *, seq: int = 1, portid: int = 0
) -> tuple[list[Row], Framing, Dump]:
    """Decode the datagrams of one dump as one chunk."""
    decoder.columns.clear()
    framing, dump = feed(datagrams, decoder, seq=seq, portid=portid)
    return decoded(decoder), framing, dump


def feed(
    datagrams: Iterable[bytes], decoder: Decoder, *, seq: int = 1, portid: int = 0
) -> tuple[Framing, Dump]:
    """Decode one more chunk of a dump; the rows stay with the decoder."""
    data = bytearray()
    places = []
    for datagram in datagrams:
        places.append((len(data), len(data) + len(datagram)))
        data += datagram + bytes(-len(datagram) % 4)
    words = np.frombuffer(bytes(data) + bytes(PAD), np.uint32)
    framing = frame(words, places, seq, portid)
    dump = Dump()
    if framing.offsets.size:
        decoder.decode(words, framing, dump)
    return framing, dump


def live(decoder: Decoder, kind: int, request: bytes) -> tuple[list[Row], Dump]:
    """Dump a table of the running kernel."""
    diag = DiagSocket()
    try:
        decoder.columns.clear()
        dump = diag.dump(kind, request, decoder.decode)
    finally:
        diag.close()
    return decoded(decoder), dump


def decoded(decoder: Decoder) -> list[Row]:
    """Return the rows a decoder holds, through the batch a journal would get."""
    count = decoder.columns.rows
    if not count:
        return []
    batch = batch_of(decoder)
    batch.validate(full=True)
    rows: list[Row] = public(batch).to_pylist()
    return rows


def public(batch: pa.RecordBatch) -> pa.Table:
    """Return a journal's batch with the types of a segment."""
    # unsafe as there: a sequence number past 2^63 is negative in a signed column
    return pa.Table.from_batches([batch]).cast(public_schema(SOCKETS), safe=False)


def batch_of(decoder: Decoder) -> pa.RecordBatch:
    """Return what a journal would get of the rows a decoder holds."""
    return BatchMaker(SOCKETS).make(decoder.columns.rows, decoder.rows())
