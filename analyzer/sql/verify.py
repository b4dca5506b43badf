"""Whether a recording is whole: every byte that carries a checksum, and what must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analyzer.reading.archive import seal_is_broken
from analyzer.reading.integrity import damages, span
from analyzer.reading.recording import Recording
from analyzer.reading.segment import Missing, Segment
from analyzer.screen.cells import printable
from analyzer.sql.engine import Engine
from analyzer.sql.views import Scope
from recorder.schema import KINDS, SAMPLES, SOCKETS, SockrecError

_NUMBERS = ("int16", "int32", "int64", "timestamp[us]")

_GAPS = """
SELECT before + 1 AS first, sample - 1 AS last, before_us, t_us
FROM (
  SELECT
    sample, t_us,
    lag(sample) OVER (ORDER BY sample) AS before,
    lag(t_us) OVER (ORDER BY sample) AS before_us
  FROM (SELECT sample, min(t_us) AS t_us FROM samples GROUP BY sample)
)
WHERE sample > before + 1
ORDER BY sample
"""

_ORPHANS = """
SELECT
  count(*) AS rows, count(DISTINCT s.sample) AS samples,
  min(s.t_us) AS first, max(s.t_us) AS last
FROM sockets AS s ANTI JOIN samples AS p ON s.sample = p.sample
"""


_COUNTS = """
SELECT
  (SELECT count(DISTINCT sample) FROM samples) AS samples,
  (SELECT count(*) FROM sockets) AS socket_rows
"""
"""What recording.json tells of a recording that has ended, by its words."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be; times are in microseconds UTC where they are known."""

    file: str
    table: str | None
    column: str | None
    rows: int | None
    first: int | None
    last: int | None
    what: str

    def __str__(self) -> str:
        column = f", column {self.column}" if self.column else ""
        return str(Missing(self.file + column, self.what, self.rows, self.first, self.last))


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found, how many bytes of how many files were read, and what could not be checked."""

    problems: tuple[Problem, ...]
    files: int
    bytes: int
    unchecked: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.problems

    def facts(self) -> dict[str, object]:
        """Return what ``verify --format json`` prints; no name is taken away nor changed."""
        return {
            "whole": self.whole,
            "files": self.files,
            "bytes": self.bytes,
            "problems": [
                {name: getattr(problem, name) for name in Problem.__slots__}
                for problem in self.problems
            ],
            "unchecked": list(self.unchecked),
        }

    def lines(self) -> Iterator[str]:
        """Yield the same in words."""
        for problem in self.problems:
            yield printable(f"damaged    {problem}")
        for what in self.unchecked:
            yield printable(f"unchecked  {what}")
        size = f"{self.files:,} files, {self.bytes:,} bytes"
        count = len(self.problems)
        problems = f"{count:,} problem{'s' if count > 1 else ''}"
        yield f"{problems} in {size}" if count else f"whole      {size}"


def verify(engine: Engine, report: Callable[[int, int], None] = lambda done, of: None) -> Verified:
    """Check what was opened. ``report`` is told how many bytes are done, of how many.

    Raises SockrecError or OSError for what keeps it from looking.
    """
    total = sum(recording.bytes for recording in engine.recordings)
    done = 0
    found: list[Verified] = []
    for part, recording in enumerate(engine.recordings):
        found.append(_verify(engine, part, partial(_tell, report, done, total)))
        done += recording.bytes
    report(total, total)
    if len(found) == 1:
        return found[0]
    paths = [str(recording.path) for recording in engine.recordings]
    problems = [
        replace(problem, file=f"{path}: {problem.file}")
        for path, one in zip(paths, found, strict=True)
        for problem in one.problems
    ]
    return Verified(
        tuple(problems),
        sum(one.files for one in found),
        sum(one.bytes for one in found),
        tuple(
            f"{path}: {what}"
            for path, one in zip(paths, found, strict=True)
            for what in one.unchecked
        ),
    )


def _tell(report: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    report(before + done, total)


def _verify(engine: Engine, part: int, report: Callable[[int], None]) -> Verified:
    """Check one of the recordings."""
    recording = engine.recordings[part]
    problems = [
        Problem(lost.what, lost.table, None, lost.rows, lost.first, lost.last, lost.why)
        for lost in recording.missing
    ]
    unchecked: list[str] = []
    if recording.unpacked is not None and seal_is_broken(recording.path):
        what = "its bytes are not as they were written"
        problems.append(Problem(recording.path.name, None, None, None, None, None, what))
    done = 0
    for segment in recording.segments:
        found = list(_damaged(recording, segment))
        problems += found or _disorder(recording, segment)
        done += segment.bytes
        report(done)
    older = sum(not segment.footer for segment in recording.segments)
    if older:
        unchecked.append(
            f"the footers of {older:,} segments carry no checksum: an older sockrec wrote them; "
            "their pages do"
        )
    problems += _undecodable(recording)
    if recording.whole and not recording.sealed and recording.segments:
        unchecked.append("there is no list of what was sealed: a segment may be missing")
    if not recording.whole:
        unchecked.append("these are parts of a recording: what else there was is unknown")
    if not problems:  # or DuckDB would read what is damaged
        problems += _rows(engine, part)
    else:
        unchecked.append("the order and the sums of rows, as long as files are damaged")
    files = len(recording.segments) + len(recording.journals)
    return Verified(tuple(problems), files, recording.bytes, tuple(unchecked))


def _damaged(recording: Recording, segment: Segment) -> Iterator[Problem]:
    for column, what in damages(segment, segment.columns):
        yield _problem(recording, segment, column or None, what)


def _problem(recording: Recording, segment: Segment, column: str | None, what: str) -> Problem:
    name = recording.name(segment.path)
    return Problem(name, segment.table.name, column, segment.rows, *span(segment), what)


def _disorder(recording: Recording, segment: Segment) -> Iterator[Problem]:
    """Tell the first place where rows are not in the order of the table's keys, but for texts."""
    numbers = {column.name for column in segment.table.columns if KINDS[column.kind][1] in _NUMBERS}
    keys = list(takewhile(lambda name: name in numbers, segment.table.order))
    keys = [key for key in keys if key in segment.columns]
    last: list[int] | None = None
    with pq.ParquetFile(segment.path) as file:
        for group in range(file.num_row_groups if keys else 0):
            table = file.read_row_group(group, keys)
            columns = [np.asarray(_number(table[key])) for key in keys]
            if last is not None:
                columns = [
                    np.concatenate(([one], column))
                    for one, column in zip(last, columns, strict=True)
                ]
            equal = np.ones(len(columns[0]) - 1, bool)
            falls = np.zeros(len(columns[0]) - 1, bool)
            for column in columns:
                falls |= equal & (column[:-1] > column[1:])
                equal &= column[:-1] == column[1:]
            if falls.any():
                what = f"its rows are not in the order of {', '.join(keys)}"
                yield _problem(recording, segment, None, what)
                return
            last = [int(column[-1]) for column in columns]


def _number(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return column.fill_null(0) if column.null_count else column


def _undecodable(recording: Recording) -> Iterator[Problem]:
    """Read all of the journals, whose checksums were looked at when they were opened."""
    for journal in recording.journals:
        try:
            for _ in journal.batches(frozenset(journal.table.names)):
                pass
        except SockrecError as error:
            name, what = recording.name(journal.file.path), str(error)
            yield Problem(name, journal.table.name, None, None, None, None, what)


def _miscounted(engine: Engine, part: int) -> Iterator[Problem]:
    """Compare with what the recorder counted until its end; an older one told no counts."""
    facts = engine.recordings[part].facts
    told = {
        name: count
        for name in ("samples", "socket_rows")
        if facts.get("ended") and isinstance(count := facts.get(name), int)
    }
    (counted,) = engine.table(_COUNTS, Scope(part=part)).to_pylist() if told else ({},)
    for name, count in told.items():
        if counted[name] != count:
            table = SAMPLES.name if name == "samples" else SOCKETS.name
            what = f"recording.json counts {count:,} {name.replace('_', ' ')}, there are {{:,}}"
            yield Problem(table, table, None, None, None, None, what.format(counted[name]))


def _rows(engine: Engine, part: int) -> Iterator[Problem]:
    """Check what the rows of whole files must agree in."""
    scope = Scope(part=part)
    for gap in engine.table(_GAPS, scope).to_pylist():
        what = f"samples {gap['first']:,} to {gap['last']:,} are missing"
        yield Problem(SAMPLES.name, SAMPLES.name, None, None, gap["before_us"], gap["t_us"], what)
    if engine.recordings[part].whole:
        yield from _miscounted(engine, part)
        orphans = engine.table(_ORPHANS, scope).to_pylist()[0]
        if orphans["rows"]:
            what = f"rows of {orphans['samples']:,} samples that did not take place"
            yield Problem(
                SOCKETS.name,
                SOCKETS.name,
                None,
                orphans["rows"],
                orphans["first"],
                orphans["last"],
                what,
            )
