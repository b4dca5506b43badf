"""A recording, written anew: whole beside its place, then given its name, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from analyzer.reading.memory import check_room_for_threads
from analyzer.reading.rows import Rewrite, TableRows
from analyzer.sharing.selection import Selection
from recorder.format.files import LIST_FILE, named, segment_name
from recorder.format.segments import Sealed, SealedFile
from recorder.format.writing import (
    COMPRESSION_LEVEL,
    SortedColumns,
    key_values,
    read_back,
    write_segment,
)
from recorder.schema import (
    RECORDING_FILE,
    SAMPLES,
    SOCKETS,
    TABLES,
    SockrecError,
    Table,
)

_VALUES_AT_ONCE = 800_000
"""Of columns that are read together: the fewer the rows, the more columns."""

COUNTS = ("samples", "socket_rows")
"""What recording.json counts, and verify compares."""

T = TypeVar("T")

Report = Callable[[int, int], None]
"""Is told how much is done, of how much."""


_SLACK = 0.1
"""How far from the truth a guess may be that is made of few rows; of all of them it is none."""


class OutputError(SockrecError):
    """What cannot be written where it was to be."""


class TooLargeError(OutputError):
    """What would be larger than it may be; ``size`` is what it comes to, or would."""

    def __init__(self, size: int) -> None:
        super().__init__(f"comes to {size:,} bytes")
        self.size = size


@contextmanager
def new_place(place: Path) -> Iterator[Path]:
    """Give a name beside a place, which what the block makes there takes when it is done.

    What is there already is refused. Raises OutputError.
    """
    beside = place.with_name(f".{place.name[:50]}.{os.getpid()}.part")
    try:
        _refuse_existing(place)
        try:
            yield beside
            _refuse_existing(place)
            os.rename(beside, place)
            _sync(place.parent)
        except BaseException:
            _remove(beside)
            raise
    except OSError as error:
        if error.filename is None:
            raise
        named = place if error.filename == str(beside) else error.filename
        raise OutputError(f"{named}: cannot be written: {error.strerror}") from error


def _refuse_existing(place: Path) -> None:
    if os.path.lexists(place):
        raise OutputError(f"{place}: is there already: give another name with -o")


def _remove(place: Path) -> None:
    """Remove what was to be given a name, and was made by us."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_recording(
    folder: Path,
    selection: Selection,
    facts: Mapping[str, Any],
    report: Report = lambda done, of: None,
    *,
    rewrite: Callable[[Table], Rewrite | None] = lambda table: None,
    level: int = COMPRESSION_LEVEL,
    most: int | None = None,
) -> list[Path]:
    """Write what is chosen as a recording of one number, and the context under the next.

    The folder must not exist; it is readable by its owner only. ``facts`` is recording.json, as
    ``described`` gives it; ``rewrite`` gives what is made of the columns of a table. Returns its
    files. Raises SockrecError or OSError, TooLargeError as soon as it is clear that they come to
    more than ``most`` bytes.
    """
    folder.mkdir(mode=0o700)
    text = json.dumps(facts, indent=1)
    written = [folder / RECORDING_FILE]
    lines = b""
    done = size = 0

    def grown(rows: int, file_size: int) -> None:
        share = (done + rows) / max(selection.count, 1)
        report(done + rows, selection.count)
        guess = int((size + file_size) / share)
        if most is not None and guess * (1 - _SLACK * (1 - share)) > most:
            raise TooLargeError(guess)

    for number, places in _numbers(selection):
        files: dict[str, SealedFile] = {}
        span: tuple[int, int | None, int | None] = (0, None, None)
        for table in sorted(TABLES.values(), key=lambda table: table == SAMPLES):
            order = places.get(table.name, np.zeros(0, np.int64))
            if len(order) or table == SAMPLES:
                rows = TableRows(table, selection.parts, rewrite(table))
                path = folder / table.name / segment_name(number)
                files[table.name] = _write(path, rows, order, text, level, grown)
                written.append(path)
                done += len(order)
                size += files[table.name].bytes
            if table == SAMPLES:
                span = _span(rows, order)
        lines += Sealed(number, *span, files).line()
    _write_bytes(folder / LIST_FILE, lines)
    _write_bytes(folder / RECORDING_FILE, text.encode() + b"\n")
    for path in (*sorted({path.parent for path in written}), folder):
        _sync(path)
    return [*written, folder / LIST_FILE]


def _numbers(selection: Selection) -> Iterator[tuple[int, Mapping[str, npt.NDArray[np.int64]]]]:
    yield 1, selection.places
    if len(selection.context):
        yield 2, {SOCKETS.name: selection.context}


def described(facts: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """Return recording.json of what is chosen."""
    made = dict(facts)
    if selection.scope is not None or len(selection.context):
        made["cut"] = _cut(made.get("cut"), selection)
        made |= {name: None for name in COUNTS if name in made}  # of the whole
    return made


def _cut(before: object, selection: Selection) -> dict[str, Any]:
    """Return what recording.json says of a cut; of a cut of a cut, both."""
    earlier = before if isinstance(before, dict) else {}
    scope = selection.scope
    conditions = [earlier.get("where"), scope.where if scope else None]
    conditions += [scope.filter.text] if scope and scope.filter else []
    return {
        "from_us": scope.start if scope else earlier.get("from_us"),
        "to_us": scope.end if scope else earlier.get("to_us"),
        "where": " AND ".join(f"({text})" for text in conditions if text) or None,
        "context": [2] if len(selection.context) else [],
        "had": list(selection.had),
    }


def _write(
    path: Path,
    rows: TableRows,
    order: npt.NDArray[np.int64],
    facts: str,
    level: int,
    grown: Callable[[int, int], None],
) -> SealedFile:
    """Write a segment; ``grown`` is told rows and bytes of it after each part."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            columns = max(1, _VALUES_AT_ONCE // max(len(order), 1))
            parts = rows.in_parts(order)
            told = key_values(facts)

            def in_turn(items: Iterator[SortedColumns]) -> Iterator[SortedColumns]:
                done = 0
                for item in _ahead(items):
                    done += next(iter(item.values())).rows
                    yield item
                    if done:
                        grown(done, file.tell())

            write_segment(rows.table, parts, file, path, told, columns, level, in_turn)
            found = read_back(path, file.fileno())
    except OSError as error:
        raise named(error, path) from error
    if found.rows != len(order):
        raise OutputError(f"{path}: was not written as a whole")
    return found


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items; the next one is made in another thread meanwhile, if there is room for it."""
    try:
        check_room_for_threads()
    except MemoryError:
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
            del item  # before the next but one is made


def _write_bytes(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _span(rows: TableRows, order: npt.NDArray[np.int64]) -> tuple[int, int | None, int | None]:
    """Return how many samples there are, and the times of the first and the last."""
    columns: list[npt.NDArray[np.int64]] = []
    for name in ("sample", "sample_time"):
        pieces: Sequence[npt.NDArray[np.int64]] = [
            np.asarray(batch.column(0).cast("int64"))
            for batch in rows.read([rows.table.names.index(name)])
        ]
        columns.append(np.concatenate([np.zeros(0, np.int64), *pieces])[order])
    samples, times = columns
    if not len(samples):
        return 0, None, None
    return len(np.unique(samples)), int(times.min()), int(times.max())
