"""Memory that is used again, made to show itself wherever it is read instead of written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from recorder.kernel.transport import DiagSocket
from recorder.kernel.waiting import Waiting
from recorder.wire.columns import AnyArray, Columns
from recorder.wire.netlink import Decode, Dump, Framing, Words


@contextmanager
def poisoned(byte: int) -> Iterator[None]:
    """Fill with a byte what the recorder is to write anew, and what it has done with.

    That are the rows that a decoder makes room for, all its rows once it is to forget them, and a
    chunk of messages once it was decoded.
    """
    extend, clear, dump = Columns.extend, Columns.clear, DiagSocket.dump

    def poisoned_extend(self: Columns, count: int) -> slice:
        rows = extend(self, count)
        for array in self._arrays.values():
            _fill(array[rows], byte)
        return rows

    def poisoned_clear(self: Columns) -> None:
        clear(self)
        for array in self._arrays.values():
            _fill(array, byte)

    def poisoned_dump(
        self: DiagSocket, kind: int, body: bytes, decode: Decode, waiting: Waiting | None = None
    ) -> Dump:
        def then_poisoned(words: Words, framing: Framing, result: Dump) -> None:
            decode(words, framing, result)
            _fill(words, byte)

        result = dump(self, kind, body, then_poisoned, waiting)
        _fill(self._words, byte)  # what waits is not there
        return result

    with (
        mock.patch.object(Columns, "extend", poisoned_extend),
        mock.patch.object(Columns, "clear", poisoned_clear),
        mock.patch.object(DiagSocket, "dump", poisoned_dump),
    ):
        yield


def _fill(array: AnyArray, byte: int) -> None:
    if array.dtype.hasobject:
        array[:] = f"poison {byte}"
    else:
        array.view(np.uint8)[:] = byte
