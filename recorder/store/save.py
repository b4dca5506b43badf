"""Saving: a recording of its own out of one that may go on, by hard links and a cut of journals.

Segments never change, so that a link to each is enough, whatever becomes of the other name. Of
journals what is committed is copied. It is made beside its place, and gets its name when it is
whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.format.facts import parse_facts, read_facts
from recorder.format.files import (
    DAMAGED,
    LIST_FILE,
    TEMPORARY,
    journal_name,
    number_of,
    recording_file,
    segment_name,
)
from recorder.format.journal import JournalFile, read_commits
from recorder.format.runs import COUNTS, part_numbers, parts_of
from recorder.format.segments import Listed, Sealed, parse_list, read_list
from recorder.format.times import Mark, Times
from recorder.schema import (
    MARKS,
    RECORDING_FILE,
    SAMPLES,
    SEGMENT_SUFFIX,
    SOCKETS,
    TABLES,
    SockrecError,
)
from recorder.store.directory import Directory, append_line
from recorder.store.journal import numbers
from recorder.store.manifest import iso_time
from recorder.store.segment import Batches, span_of

_ATTEMPTS = 50
_PIECE = 1 << 20
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)

Bounds = Callable[[Times], tuple[int | None, int | None]]
"""What is to be saved, in microseconds UTC, of a recording of these times."""


class SaveError(SockrecError):
    """A recording of which nothing can be saved."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved: where, how many samples, and the times of the first and the last."""

    path: Path
    samples: int | None
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class _Part:
    """One number: its span, what it counts, its tables that have rows, and the marks in it."""

    number: int
    first: int | None
    last: int | None
    samples: int | None
    rows: Mapping[str, int] | None
    sealed: Sealed | None
    marks: Sequence[Mark]


class _Moved(Exception):
    """What was there a moment ago is sealed or dropped by now."""


def save(
    path: Path,
    target: Path,
    bounds: Bounds = lambda times: (None, None),
    *,
    held: Path | None = None,
) -> Saved:
    """Save what a recording has of a time as a new one. Raises SockrecError or OSError.

    What was saved before of the same is in ``held``, of which the recording may have dropped some.
    Whole numbers are saved, with the one before the time, as its rows are what later ones are
    compared with; recording.json tells readers the exact time.
    """
    source = Directory.open(path)
    try:
        if not source.exists(RECORDING_FILE):
            raise SaveError(f"{path}: is not a recording: it has no {RECORDING_FILE}")
        if unlisted := _unlisted(source):
            raise SaveError(
                f"{path}: its list lacks {len(unlisted)} of its segments, as it is damaged or an "
                "older sockrec recorded it: 'sockrec cut' makes a recording of a part"
            )
        if target.exists() and (not target.is_dir() or os.listdir(target)):
            raise SaveError(f"{target}: is there already: give another with -o")
        making = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY}")
        made = Directory.make(making)
        try:
            with contextlib.ExitStack() as opened:
                before = None if held is None else Directory.open(held)
                if before is not None:
                    opened.callback(before.close)
                saved = _fill(source, made, bounds, before)
            made.sync()
            os.rename(making, target)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        finally:
            made.close()
    finally:
        source.close()
    return Saved(target, *saved)


def _fill(
    source: Directory, made: Directory, bounds: Bounds, held: Directory | None
) -> tuple[int | None, int | None, int | None]:
    place = recording_file(source.path)
    facts = parse_facts(place, read_facts(place, directory=source.descriptor))
    known: dict[int, _Part] = {}
    linked: dict[int, _Part] = {}  # what the ring may drop by now
    if held is not None:
        for number, part in _look(held, made, {}).items():
            if part.sealed is not None:
                _link(held, made, part.sealed)
            linked[number] = part
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError, _Moved):
            there = _look(source, made, known)
            _leave_out_before_a_gap(linked, _listed(source).through)
            sealed = {number: part for number, part in linked.items() if part.sealed is not None}
            known = dict(sorted((linked | there | sealed).items()))
            chosen, start, end = _choose(known, bounds, part_numbers(parts_of(facts)))
            for part in reversed(chosen):  # the oldest are dropped first
                if part.sealed is not None and part.number not in sealed:
                    _link(source, made, part.sealed)
                    linked[part.number] = part
            return _finish(source, made, known, chosen, (start, end))
    raise SaveError(f"{source.path}: its files keep changing: try again")


def _look(source: Directory, made: Directory, before: Mapping[int, _Part]) -> dict[int, _Part]:
    """Return what there is now; journals are copied as they are found.

    What is sealed meanwhile is taken as that, rather than beginning anew: a recorder may seal
    faster than can be looked at.
    """
    listed = _listed(source)
    known = {one.number for one in listed.sealed}
    there = [n for n in numbers(source) if n > listed.through and n not in known]
    copied: dict[int, _Part] = {}
    for number in there:
        part = before.get(number)
        if part is None or part.sealed is not None or number == max(before):
            part = _copied(source, made, number)
        if part is not None:
            copied[number] = part
    listed = _listed(source)
    known |= set(there)
    sealed = {one.number: _of_sealed(source, one) for one in listed.sealed if one.number in known}
    return {n: part for n, part in (copied | sealed).items() if n > listed.through}


def _leave_out_before_a_gap(linked: dict[int, _Part], through: int) -> None:
    """Let go of what is linked and was dropped, if something that followed it was dropped, too."""
    first = through
    while first in linked:
        first -= 1
    for number in [number for number in linked if number <= first]:
        del linked[number]


def _copied(source: Directory, made: Directory, number: int) -> _Part | None:
    """Copy the journals of a number; return None if it is sealed or dropped by now."""
    try:
        return _copy_journals(source, made, number)
    except (FileNotFoundError, _Moved):
        listed = _listed(source)
        if number <= listed.through or any(one.number == number for one in listed.sealed):
            return None
        raise


def _unlisted(source: Directory) -> set[int]:
    """Return the numbers of segments that no list names: an older recorder kept none."""
    there: set[int] = set()
    with contextlib.suppress(FileNotFoundError), source.folder(SAMPLES.name) as folder:
        named = (number_of(name, SEGMENT_SUFFIX) for name in folder.names())
        there = {number for number in named if number is not None}
    # in this order: what is sealed is listed before its journals are removed
    journals = numbers(source)
    listed = _listed(source)
    known = {*journals, *(one.number for one in listed.sealed)}
    return {number for number in there - known if number > listed.through}


def _listed(source: Directory) -> Listed:
    try:
        return read_list(source.path / LIST_FILE, directory=source.descriptor)
    except FileNotFoundError:
        return parse_list(b"")


def _of_sealed(source: Directory, sealed: Sealed) -> _Part:
    rows = {name: file.rows for name, file in sealed.files.items()}
    marks: list[Mark] = []
    if rows.get(MARKS.name):
        with source.folder(MARKS.name) as folder:
            file = folder.open_regular(segment_name(sealed.number))
        with os.fdopen(file, "rb") as opened:
            marks = _marks(pq.read_table(opened, columns=["name", "time"]).to_batches())
    return _Part(sealed.number, sealed.first, sealed.last, sealed.samples, rows, sealed, marks)


def _copy_journals(source: Directory, made: Directory, number: int) -> _Part:
    """Copy what is committed to the journals of a number."""
    with contextlib.ExitStack() as opened:
        journals: dict[str, JournalFile] = {}
        # that of samples first: what its commits are about is written to the others already
        for table in sorted(TABLES, key=lambda name: name != SAMPLES.name):
            with contextlib.suppress(FileNotFoundError), source.folder(table) as folder:
                path = folder.path / journal_name(number)
                journals[table] = JournalFile(path, directory=folder.descriptor)
                opened.callback(journals[table].close)
        committed = read_commits(journals)
        if SAMPLES.name not in journals or committed.stopped.endswith("is missing"):
            raise _Moved
        ends = {name: max((e for _, e in committed.ranges(name)), default=0) for name in TABLES}
        ends[SAMPLES.name] = committed.end
        for table, journal in journals.items():
            with made.folder(table, make=True) as folder:
                folder.discard(journal_name(number))
                with os.fdopen(folder.create(journal_name(number)), "wb") as file:
                    for start in range(0, ends[table], _PIECE):
                        file.write(journal.read(start, min(_PIECE, ends[table] - start)))
                    file.flush()
                    if ends[table]:
                        os.fsync(file.fileno())
        first, last, _ = span_of(committed, journals[SAMPLES.name])
        counted = {name: committed.rows(name) for name in TABLES}
        rows = {name: count for name, count in counted.items() if count is not None}
        batches = Batches(MARKS, journals.get(MARKS.name), committed.ranges(MARKS.name))
        places = sorted(MARKS.names.index(name) for name in ("name", "time"))
        marks = _marks(batches.read(places))
    whole = len(rows) == len(counted)
    return _Part(number, first, last, committed.samples, rows if whole else None, None, marks)


def _marks(batches: Iterable[pa.RecordBatch]) -> list[Mark]:
    found = []
    for batch in batches:
        names = batch.column("name").to_pylist()
        times = batch.column("time").cast(pa.int64()).to_pylist()
        found += [(n, us) for n, us in zip(names, times, strict=True) if n is not None]
    return sorted(found, key=lambda mark: mark[1])


def _choose(
    known: Mapping[int, _Part], bounds: Bounds, begins: Sequence[int]
) -> tuple[list[_Part], int | None, int | None]:
    """Return the numbers to be saved, and of which time they are asked for.

    Those of another boot, each of which ``begins`` with a number, are nothing to compare with.
    """
    firsts = [part.first for part in known.values() if part.first is not None]
    lasts = [part.last for part in known.values() if part.last is not None]
    marks = sorted((mark for part in known.values() for mark in part.marks), key=lambda m: m[1])
    times = Times(min(firsts, default=None), max(lasts, default=None), marks=lambda: marks)
    start, end = bounds(times)
    parts = list(known.values())
    if start is not None:
        over = [p.last is not None and p.last < start for p in parts]
        begin = next((place for place, past in enumerate(over) if not past), len(parts))
        before = parts[max(0, begin - 1) : begin]
        parts = parts[begin:]
        boots = {bisect_right(begins, part.number) for part in (*before, *parts[:1])}
        parts = before * (len(boots) == 1) + parts
    if end is not None:
        parts = [part for part in parts if part.first is None or part.first < end]
    return parts, start, end


def _link(source: Directory, made: Directory, sealed: Sealed) -> None:
    for table in sealed.files:
        with made.folder(table, make=True) as there:
            try:
                with source.folder(table) as here:
                    _link_file(here, there, segment_name(sealed.number))
            except FileNotFoundError:
                if sealed.number <= _listed(source).through:
                    raise
                # It was lost before, and the list will say so of the copy, too.
    for table in TABLES:  # if it was not yet sealed a moment ago
        with contextlib.suppress(FileNotFoundError), made.folder(table) as there:
            there.discard(journal_name(sealed.number))
    if sealed.aside is not None:
        name = f"{sealed.number:06d}"
        with (
            source.folder(DAMAGED) as damaged,
            damaged.folder(name) as here,
            made.folder(DAMAGED, make=True) as kept,
            kept.folder(name, make=True) as there,
        ):
            for file in here.names():
                _link_file(here, there, file)


def _link_file(here: Directory, there: Directory, name: str) -> None:
    if there.exists(name):
        return
    try:
        os.link(
            name,
            name,
            src_dir_fd=here.descriptor,
            dst_dir_fd=there.descriptor,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        with (
            os.fdopen(here.open_regular(name), "rb") as one,
            os.fdopen(there.create(name), "wb") as other,
        ):
            shutil.copyfileobj(one, other, _PIECE)
            other.flush()
            os.fsync(other.fileno())


def _finish(
    source: Directory,
    made: Directory,
    known: Mapping[int, _Part],
    chosen: Sequence[_Part],
    span: tuple[int | None, int | None],
) -> tuple[int | None, int | None, int | None]:
    """Write the list of segments, and last of all recording.json."""
    kept = {part.number for part in chosen}
    for table in TABLES:
        with contextlib.suppress(FileNotFoundError), made.folder(table) as folder:
            for name in folder.names():
                if number_of(name) not in kept:
                    folder.discard(name)
            folder.sync()
    made.discard(LIST_FILE)
    with os.fdopen(made.create(LIST_FILE), "r+b") as listing:
        for part in chosen:
            if part.sealed is not None:
                append_line(listing.fileno(), part.sealed.line())
    place = recording_file(source.path)
    facts = dict(parse_facts(place, read_facts(place, directory=source.descriptor)))
    last = max((part.last for part in chosen if part.last is not None), default=None)
    first = min((part.first for part in chosen if part.first is not None), default=None)
    counts = _counts(chosen)
    cut = _cut(known, span, facts.get("cut"))
    for name in ("keep", "control"):  # of who goes on
        facts.pop(name, None)
    facts |= {
        "ended": facts.get("ended") or (iso_time(last) if last is not None else None),
        "exit": "save",
        # of a cut it is not known how many of what is there are in it
        **(dict.fromkeys(COUNTS) if cut else counts),
        **cut,
    }
    runs = facts.get("runs")
    if isinstance(runs, list):
        facts["runs"] = [
            run | {"before": _counts([part for part in chosen if part.number < run["number"]])}
            for run in runs
            if isinstance(run, dict) and isinstance(run.get("number"), int)
        ]
    with os.fdopen(made.create_temporary(RECORDING_FILE), "wb") as file:
        file.write(json.dumps(facts, indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    made.place(RECORDING_FILE)
    return counts["samples"], first, last


def _counts(parts: Sequence[_Part]) -> dict[str, int | None]:
    """Return what recording.json counts of numbers."""
    rows = _sum(None if part.rows is None else part.rows.get(SOCKETS.name, 0) for part in parts)
    return {"samples": _sum(part.samples for part in parts), "socket_rows": rows}


def _cut(
    known: Mapping[int, _Part], span: tuple[int | None, int | None], before: object
) -> dict[str, Any]:
    """Return what recording.json says of the time that is asked for, within what it said before."""
    if isinstance(before, dict):
        starts = [us for us in (span[0], before.get("from_us")) if isinstance(us, int)]
        ends = [us for us in (span[1], before.get("to_us")) if isinstance(us, int)]
        times = {"from_us": max(starts, default=None), "to_us": min(ends, default=None)}
        return {"cut": before | times}
    if span == (None, None):
        return {}
    had = {name for part in known.values() for name, rows in (part.rows or {}).items() if rows}
    return {
        "cut": {
            "from_us": span[0],
            "to_us": span[1],
            "where": None,
            "had": [name for name in TABLES if name in had],
            "context": [],
        }
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
