"""Ages as segments have them: the moments they count from, and when the socket was read.

The kernel tells how long ago something was, and how long it is until a timer fires. Of an idle
socket each is another number in every sample, though nothing happened; but those of a row are of
one look at one clock. So one column has when that was, and the others what stays as it is. Whatever
the numbers are, what is made of them is what they were.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recorder.schema import SOCKETS, Table, segment_columns

_READ = ("sample_time", "read_ms")
_ACK = (*_READ, "ack_recv_at_ms")

NEEDS: Mapping[str, tuple[str, ...]] = {
    "last_ack_recv_ms": _ACK,
    "last_data_sent_ms": (*_ACK, "data_sent_to_ack_ms"),
    "last_data_recv_ms": (*_ACK, "data_recv_to_ack_ms"),
    "expires_ms": (*_READ, "expires_at_ms"),
}
"""Of what columns of a segment each age is made that it does not have itself."""

_SOCKET = ("netns", "cookie")
_BITS = 30
"""Within which ``read_ms`` stays, which has 32."""

Numbers = npt.NDArray[np.int64]


def in_segment(table: Table, columns: Collection[str], present: Collection[str]) -> list[str]:
    """Return those that are present in a segment of what some columns of a table are made of."""
    wanted = set(columns)
    if table == SOCKETS:
        made = (NEEDS.keys() & wanted) - set(present)
        wanted |= {need for name in made for need in NEEDS[name]}
    return [name for name in present if name in wanted]


def moments(table: Table, rows: Mapping[str, pa.Array]) -> list[pa.Array]:
    """Return the columns of a segment of some rows, which stand in its order.

    ``rows`` has the columns of the table, in the types of a view.
    """
    made = _moments(rows) if table == SOCKETS else {}
    return [made[c.name] if c.name in made else rows[c.name] for c in segment_columns(table)]


def age(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return an age made of the columns of a segment that it needs, which the batch has."""
    taken, (read, known) = _taken(batch["sample_time"]), _numbers(batch["read_ms"])
    if name == "expires_ms":
        expires, valid = _numbers(batch["expires_at_ms"])
        return _made(expires - taken - read, valid & known)
    held, acked = _numbers(batch["ack_recv_at_ms"])
    acked &= known
    since = np.where(acked, taken + read - held, 0)
    if name == "last_ack_recv_ms":
        return _made(since, acked)
    more, valid = _numbers(batch[NEEDS[name][-1]])
    return _made(more + since, valid)


def _moments(rows: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    taken = _taken(rows["sample_time"])
    since, acked = _numbers(rows["last_ack_recv_ms"])
    left, runs = _numbers(rows["expires_ms"])
    # without the age of an acknowledgement the timer is what tells when the socket was read
    moment = np.where(acked, taken - since, np.where(runs, taken + left, 0))
    begins = _changes(acked + 2 * (runs & ~acked))
    for key in _SOCKET:
        begins |= _changes(_numbers(rows[key])[0])
    begins |= _changes((moment - moment[_latest(begins)] + (1 << _BITS - 1)) >> _BITS)
    held = moment[_latest(begins)]
    read = held - moment
    sent, was_sent = _numbers(rows["last_data_sent_ms"])
    received, was_received = _numbers(rows["last_data_recv_ms"])
    return {
        "read_ms": _made(read.astype(np.int32), acked | runs),
        "ack_recv_at_ms": _made(held, acked),
        "data_sent_to_ack_ms": _made(sent - since, was_sent),
        "data_recv_to_ack_ms": _made(received - since, was_received),
        "expires_at_ms": _made(taken + read + left, runs),
    }


def _taken(times: pa.Array) -> Numbers:
    """Return times of samples in whole milliseconds, cut off towards zero as SQL does."""
    return _numbers(pc.divide(times.cast(pa.int64()), 1000))[0]


def _numbers(column: pa.Array) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Return the numbers of a column, 0 for NULL, and which are not NULL."""
    column = column.cast(pa.int64())
    if not column.null_count:
        return np.asarray(column), np.ones(len(column), bool)
    return np.asarray(column.fill_null(0)), np.asarray(column.is_valid())


def _made(numbers: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(numbers, mask=None if valid.all() else ~valid)


def _changes(numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where a number is not that of the row before."""
    found = np.ones(len(numbers), bool)
    np.not_equal(numbers[1:], numbers[:-1], out=found[1:])
    return found


def _latest(begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return for each row the last at which something begins, itself included."""
    return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
