"""Rows of a recording, read part by part, and segments that are written so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analyzer
from analyzer.reading.rows import Part, TableRows
from analyzer.sharing.output import _ahead
from recorder.format.writing import ROW_GROUP_ROWS, order_of, write_segment
from recorder.schema import MARKS, SOCKETS
from tests.analyzer.support.recordings import Writer, tcp


def read(rows: TableRows, column: str) -> np.ndarray[Any, Any]:
    place = rows.table.names.index(column)
    return np.concatenate([np.asarray(batch.column(0)) for batch in rows.read([place])])


def rows_of(opened: analyzer.Analysis) -> TableRows:
    return TableRows(SOCKETS, (Part(opened.engine.recordings[0]),))


@pytest.mark.parametrize("sealed", [True, False])
def test_parts_have_the_rows_of_the_whole_in_its_order(sealed: bool, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for number in range(6):  # of each segment other sockets, so that parts need few of them
        writer.sample([tcp(10 * number + n) for n in range(10)])
        if number < 5 or sealed:
            writer.seal()
    with analyzer.open(tmp_path / "r") as opened:
        rows = rows_of(opened)
        order = order_of(SOCKETS, rows)
        parts = list(rows.in_parts(order, 20))
        assert len(parts) == 3
        for name in ("cookie", "sample"):
            whole = read(rows, name)[order]
            assert np.array_equal(
                np.concatenate([read(part, name)[places] for part, places in parts]), whole
            )
        assert [len(read(part, "cookie")) for part, _ in parts] == [20, 20, 20]
        (only,) = rows.in_parts(order[:0])
        assert len(only[1]) == 0


def test_segments_that_each_have_all_sockets_are_not_read_again_and_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    for _ in range(6):
        writer.sample([tcp(n) for n in range(10)])
        writer.seal()
    with analyzer.open(tmp_path / "r") as opened:
        rows = rows_of(opened)
        order = order_of(SOCKETS, rows)
        parts = list(rows.in_parts(order, 10))
        assert sum(len(read(part, "cookie")) for part, _ in parts) <= 120
        cookies = np.concatenate([read(part, "cookie")[places] for part, places in parts])
        assert np.array_equal(cookies, np.repeat(np.arange(10), 6))


class Marks:
    """As many marks as wanted, of which some are labelled."""

    def __init__(self, numbers: np.ndarray[Any, Any]) -> None:
        self._numbers = numbers

    def read(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        words = pa.DictionaryArray.from_arrays(
            pa.array((self._numbers % 3).astype(np.int32)), pa.array(["a", "b", "c"])
        )
        kinds = {column.name: column.kind for column in MARKS.columns}
        names = [MARKS.names[place] for place in columns]
        numbers = pa.array(self._numbers)
        yield pa.RecordBatch.from_arrays(
            [words if kinds[n] in ("text", "word") else numbers for n in names], names=names
        )


def written(path: Path, parts: list[tuple[Marks, np.ndarray[Any, Any]]]) -> pa.Table:
    with path.open("w+b") as file:
        write_segment(MARKS, parts, file, path, {}, ahead=_ahead)
    return pq.read_table(path)


def test_a_segment_of_several_parts_is_that_of_one(tmp_path: Path) -> None:
    count = 2 * ROW_GROUP_ROWS + 5
    numbers = np.arange(count)[::-1].copy()
    first, second = numbers[:ROW_GROUP_ROWS], numbers[ROW_GROUP_ROWS:]
    places = [np.argsort(part) for part in (second, first)]
    one = written(tmp_path / "one", [(Marks(numbers), np.argsort(numbers))])
    # the second has the lower numbers, and one more row group than it has whole ones
    two = written(
        tmp_path / "two",
        [
            (Marks(second), places[0][:ROW_GROUP_ROWS]),
            (
                Marks(np.concatenate((second, first))),
                np.r_[places[0][ROW_GROUP_ROWS:], places[1] + len(second)],
            ),
        ],
    )
    assert one.equals(two)
    assert one.num_rows == count
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_made_ahead_comes_in_order_and_so_does_an_error() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    made = _ahead(items())
    assert [next(made), next(made), next(made)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(made)
