"""A recording on disk: which files count, and what recording.json says."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from analyzer.reading.archive import Unpacked, is_zip, unpack
from analyzer.reading.journal import Journal, open_journals
from analyzer.reading.segment import TOGETHER, TOGETHER_WHY, Missing, Segment, read_segment
from recorder.format.facts import parse_facts, read_facts
from recorder.format.files import LIST_FILE, FileError, number_of, segment_name
from recorder.format.runs import COUNTS, Part, part_numbers, parts_of
from recorder.format.segments import Dropped, Listed, Sealed, read_list
from recorder.schema import (
    JOURNAL_SUFFIX,
    RECORDING_FILE,
    SAMPLES,
    SEGMENT_SUFFIX,
    SOCKETS,
    TABLES,
    SockrecError,
)

_ATTEMPTS = 20
_MOST_US = 1 << 60
_PARTITION = re.compile(r"\w+=.+", re.ASCII)


class RecordingError(SockrecError):
    """What was named is not a recording, or not one that can be read."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Bytes at the end of the journals of a number that belong to no whole sample.

    One sample in flight is normal. ``why`` is empty if the bytes simply lack their commit.
    """

    number: int
    bytes: int
    why: str


class Identity(NamedTuple):
    """What no two recordings share; None is what its facts do not tell.

    ``run`` is when the recorder was started: what it counts begins anew then.
    """

    host: str | None
    boot: str | None
    run: str | None


class Cut(NamedTuple):
    """What of a recording this is: a half-open span in microseconds UTC, None is unbounded.

    ``context`` are the numbers of which the rows of sockets are no part of it: reports look at them
    for who listened where, whatever they are about. ``had`` are the tables that had rows.
    """

    start: int | None = None
    end: int | None = None
    context: frozenset[int] = frozenset()
    had: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Recording:
    """The files of a recording that count, as they were at one instant.

    ``facts`` is recording.json, with its counts less what was dropped; ``whole`` is false for
    single Parquet files. ``unpacked`` holds the files of a zip, which ``close`` removes. ``sealed``
    is the list of what was sealed, and ``missing`` what cannot be read of it; ``dropped`` is what
    the recorder let go of itself, to stay within its bounds.
    """

    path: Path
    facts: Mapping[str, object]
    segments: tuple[Segment, ...]
    journals: tuple[Journal, ...]
    left_out: tuple[LeftOut, ...]
    whole: bool
    unpacked: Unpacked | None = None
    missing: tuple[Missing, ...] = ()
    sealed: tuple[Sealed, ...] = ()
    dropped: Dropped | None = None

    @property
    def identity(self) -> Identity:
        return _identity(self.facts)

    @property
    def cut(self) -> Cut:
        """Return what ``sockrec cut`` left of it, as recording.json tells."""
        told = self.facts.get("cut")
        if not isinstance(told, dict):
            return Cut()
        context, had = (
            found if isinstance(found, list) else [] for found in map(told.get, ("context", "had"))
        )
        return Cut(
            _moment(told.get("from_us")),
            _moment(told.get("to_us")),
            frozenset(number for number in context if isinstance(number, int)),
            frozenset(table for table in had if isinstance(table, str) and table in TABLES),
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the files that a query has to read by path."""
        return tuple(segment.path for segment in self.segments)

    def of_sample(self, sample: int | None) -> Recording:
        """Return it without the segments that have no socket of a sample; None is any sample."""
        if sample is None:
            return self
        kept = (
            segment
            for segment in self.segments
            if segment.samples is None or segment.samples[0] <= sample <= segment.samples[1]
        )
        return replace(self, segments=tuple(kept))

    @property
    def own(self) -> Recording:
        """Return it without the context of a cut."""
        context = self.cut.context
        segments = tuple(
            segment
            for segment in self.segments
            if segment.table != SOCKETS or segment.number not in context
        )
        if len(segments) == len(self.segments):
            return self
        return replace(self, segments=segments)

    @property
    def places(self) -> tuple[Path, ...]:
        """Return the files and the folder that may have to be opened."""
        if self.unpacked is not None:
            return (self.unpacked.folder,)
        return (self.path,) if self.whole else self.paths

    def name(self, path: Path) -> str:
        """Return how a file of the recording is called to its user."""
        if self.unpacked is not None and path in self.unpacked.files:
            return self.unpacked.files[path]
        return f"{path.parent.name}/{path.name}" if self.whole else str(path)

    @property
    def bytes(self) -> int:
        return sum(journal.bytes for journal in self.journals) + sum(
            segment.bytes for segment in self.segments
        )

    def check_kept(self) -> None:
        """Raise RecordingError if its recorder dropped of it what was opened."""
        if not self.whole or self.unpacked is not None:
            return
        through = _read_list(self.path / LIST_FILE)[0].through
        if any((segment.number or 0) <= through for segment in self.segments):
            raise RecordingError(
                f"{self.path}: its oldest segments were dropped while they were read, to stay "
                "within --keep, --keep-size or --min-free: open it again"
            )

    def close(self) -> None:
        """Let go of its files, and remove what was unpacked to read it."""
        for journal in self.journals:
            journal.file.close()
        if self.unpacked is not None:
            self.unpacked.close()


def open_recordings(*paths: str | os.PathLike[str]) -> tuple[Recording, ...]:
    """Open directories, zips and Parquet files of one table, of one recording or of several.

    They come ordered by host and start. A name that does not exist may be a pattern, as
    ``'*.parquet'`` in quotes; a directory of directories as ``host=web1`` stands for the recordings
    in them. Raises SockrecError or OSError.
    """
    if not paths:
        raise RecordingError("no recording is named")
    named = [place for path in paths for place in _expand(Path(path).absolute())]
    forms = {place: _form(place) for top in named for place in _layout(top)}
    once = {place.resolve(): place for place in reversed(forms)}
    opened: list[Recording] = []
    try:
        for real, place in reversed(once.items()):
            if forms[place] == "directory":
                opened += _open_directory(real)
            elif forms[place] == "zip":
                opened.append(_open_zip(place))
        opened += _open_files([real for real in reversed(once) if forms[once[real]] == "file"])
        _check_different(opened)
    except BaseException:
        for recording in opened:
            recording.close()
        raise
    return tuple(sorted(opened, key=_place_among))


def open_recording(*paths: str | os.PathLike[str]) -> Recording:
    """Open what is one recording. Raises SockrecError or OSError."""
    first, *others = open_recordings(*paths)
    if others:
        for recording in (first, *others):
            recording.close()
        raise RecordingError(f"{first.path} and {others[0].path} are of different recordings")
    return first


def _moment(value: object) -> int | None:
    """Return a time of recording.json in microseconds, None if it is none that a query can have."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if isinstance(value, int) and whole and abs(value) < _MOST_US else None


def _identity(facts: Mapping[str, object]) -> Identity:
    told = (facts.get(name) for name in ("host", "boot_id", "started"))
    return Identity(*(str(fact) if fact is not None else None for fact in told))


def _check_different(opened: Sequence[Recording]) -> None:
    """Refuse what would count twice, or what nothing tells apart."""
    seen: dict[Identity, Recording] = {}
    for recording in opened:
        other = seen.setdefault(recording.identity, recording)
        if other is not recording:
            raise RecordingError(
                f"{other.path} and {recording.path} are of one recording: name only one of them"
            )


def _place_among(recording: Recording) -> tuple[str, ...]:
    host, boot, run = recording.identity
    return str(host), str(run), str(boot), str(recording.path)


def _expand(place: Path) -> list[Path]:
    """Return what a pattern stands for, the name itself if it is none or exists."""
    text = str(place)
    if not glob.has_magic(text) or os.path.lexists(place):
        return [place]
    found = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    if not found:
        raise RecordingError(f"{place}: no such file or directory, and nothing matches it")
    return found


def _layout(place: Path) -> list[Path]:
    """Return what lies in a layout of folders as ``host=web1/day=22``, a place itself if none."""
    try:
        if not place.is_dir() or os.path.lexists(place / RECORDING_FILE):
            return [place]
        folders = [path for path in sorted(place.iterdir()) if _PARTITION.fullmatch(path.name)]
        folders = [path for path in folders if path.is_dir() and not path.is_symlink()]
    except (ValueError, UnicodeError):
        return [place]  # what is wrong with its name is told where it is opened
    if folders:
        return [found for folder in folders for found in _layout(folder)]
    if not _PARTITION.fullmatch(place.name):
        return [place]
    inside = [path for path in sorted(place.iterdir()) if _counts(path)]
    return inside or [place]


def _counts(path: Path) -> bool:
    """Tell whether something in the last folder of a layout is a recording or a file of one."""
    return os.path.lexists(path / RECORDING_FILE) or path.name.endswith(SEGMENT_SUFFIX)


def _form(place: Path) -> Literal["directory", "zip", "file"]:
    """Return what is there, without waiting for a pipe. Raises RecordingError or OSError."""
    try:
        str(place).encode()
        mode = place.stat().st_mode
    except UnicodeEncodeError:
        raise RecordingError(f"{place!r}: the name is not UTF-8: rename it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise RecordingError(f"{place}: no such file or directory") from None
    except ValueError as error:
        raise RecordingError(f"{place}: {error}") from None
    if stat.S_ISDIR(mode):
        return "directory"
    if not stat.S_ISREG(mode):
        raise RecordingError(f"{place}: not a regular file")
    if place.name == RECORDING_FILE or place.name.endswith(JOURNAL_SUFFIX):
        raise RecordingError(f"{place}: is part of a recording: name its directory")
    return "zip" if is_zip(place) else "file"


def _open_zip(path: Path) -> Recording:
    """Open what a zip holds; messages name the zip, not where it was unpacked."""
    unpacked = unpack(path)
    try:
        if unpacked.whole:
            opened, *others = _open_directory(unpacked.folder)
        else:
            opened, *others = _open_files(list(unpacked.files))
        if others:
            raise _different(opened.path, others[0].path)
    except BaseException as error:
        unpacked.close()
        if isinstance(error, SockrecError | OSError):
            raise RecordingError(unpacked.original(str(error), path)) from error
        raise
    return replace(opened, path=path, unpacked=unpacked)


def _open_files(paths: Sequence[Path]) -> list[Recording]:
    """Open files of one table: one recording for each host, boot and start that they tell."""
    found: dict[Identity, list[Segment]] = {}
    for path in paths:
        segment = read_segment(path, follow=True)
        found.setdefault(_identity(_facts(path, segment.facts)), []).append(segment)
        first, *_ = next(iter(found.values()))
        if segment.table != first.table:
            raise RecordingError(
                f"{segment.path} is of table {segment.table.name}, {first.path} of "
                f"{first.table.name}: give the files of one table, or the directory"
            )
    opened = []
    for identity, segments in found.items():
        if len(found) > 1 and None in (identity.host, identity.boot):
            other = next(others[0] for others in found.values() if others is not segments)
            raise _different(segments[0].path, other.path)
        newest = max(segments, key=lambda segment: segment.path.name)
        facts = _facts(newest.path, newest.facts)
        opened.append(Recording(segments[0].path, facts, tuple(segments), (), (), whole=False))
    return opened


def _different(one: Path, other: Path) -> RecordingError:
    return RecordingError(
        f"{one} and {other} are of different recordings, and do not both tell their host and boot"
    )


def _open_directory(path: Path) -> list[Recording]:
    """Read the directory until a look before and one after agree on what is there.

    It is several recordings if it was gone on in after a reboot. Meanwhile the recorder may add a
    journal, and seal and remove others.
    """
    if not os.path.lexists(path / RECORDING_FILE):
        names = os.listdir(path)
        if any(name.endswith(SEGMENT_SUFFIX) for name in names):
            hint = f"name its files of one table: {path}/*{SEGMENT_SUFFIX}"
        elif names:
            hint = f"it has no {RECORDING_FILE}"
        else:
            hint = "it is empty"
        raise RecordingError(f"{path}: not a sockrec recording: {hint}")
    listed = _list(path)
    for _ in range(_ATTEMPTS):
        try:
            opened = _open_listed(path, listed)
        except FileNotFoundError:
            opened = None
        before, listed = listed, _list(path)
        if opened is not None and before == listed:
            return opened
    raise RecordingError(f"{path}: its files keep changing: try again")


def _list(path: Path) -> dict[str, frozenset[str]]:
    """Return the names of the journals and segments of every table."""
    found = {}
    for table in TABLES:
        if (path / table).is_symlink():
            raise RecordingError(f"{path / table}: is a symbolic link, not a table of a recording")
        try:
            names = os.listdir(path / table)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        found[table] = frozenset(name for name in names if number_of(name) is not None)
    return found


def _open_listed(path: Path, listed: Mapping[str, frozenset[str]]) -> list[Recording]:
    list_, lost = _read_list(path / LIST_FILE)
    parts = parts_of(_facts(path / RECORDING_FILE))
    found = {number_of(name) for names in listed.values() for name in names}
    found |= {one.number for one in list_.sealed}
    # What is there yet of a number that was dropped is about to be removed.
    numbers = sorted(number for number in found if number and number > list_.through)
    own: list[list[int]] = [[] for _ in parts]
    for number in numbers:
        own[bisect_right(part_numbers(parts), number)].append(number)
    chosen = [place for place in range(len(parts)) if own[place]] or [len(parts) - 1]
    opened: list[Recording] = []
    for place in chosen:
        dropped = list_.dropped if place == chosen[0] else None
        facts = _counted(parts, place, list_.dropped)
        recording = _open_part(path, facts, listed, list_.sealed, own[place], dropped)
        opened.append(recording)
    opened[-1] = replace(opened[-1], missing=(*lost, *opened[-1].missing))
    return opened


def _open_part(
    path: Path,
    facts: Mapping[str, object],
    listed: Mapping[str, frozenset[str]],
    all_sealed: Sequence[Sealed],
    numbers: Sequence[int],
    dropped: Dropped | None,
) -> Recording:
    """Open some numbers of a directory."""
    sealed = [one for one in all_sealed if one.number in numbers]
    known = {one.number: one for one in sealed}
    missing: list[Missing] = []
    segments: list[Segment] = []
    journals: list[Journal] = []
    left_out: list[LeftOut] = []
    refused: list[Exception] = []
    for number in numbers:
        there = _present(path, listed, number, SEGMENT_SUFFIX)
        paths = _present(path, listed, number, JOURNAL_SUFFIX)
        # The samples are sealed last, so that without them the journals are what counts.
        if SAMPLES.name in there or number in known or (there and not paths):
            found, lost, why = _open_sealed(path, there, number, known.get(number))
            segments += found
            missing += lost
            refused += why
        else:
            new, committed = open_journals(paths)
            journals += new
            if committed.rest:
                left_out.append(LeftOut(number, committed.rest, committed.stopped))
            if committed.damaged:
                what = f"{committed.rest:,} bytes of the journals of number {number}"
                missing.append(Missing(what, f"behind a damage: {committed.stopped}"))
    if refused and not segments and not journals:
        raise refused[0]
    if (
        not (all_sealed or dropped)
        and any(segment.footer for segment in segments)
        and facts.get("ended")
    ):
        missing.append(Missing(LIST_FILE, "is not there: whether segments are missing is unknown"))
    missing += [
        Missing(
            f"{one.aside.bytes:,} bytes of the journals of number {one.number}",
            f"{one.aside.why}; they are kept in {one.aside.kept}: "
            "'sockrec recover --salvage' gets from them what can be proven",
        )
        for one in sealed
        if one.aside is not None and not any(other.salvaged == one.number for other in sealed)
    ]
    return Recording(
        path,
        facts,
        tuple(segments),
        tuple(journals),
        tuple(left_out),
        whole=True,
        missing=tuple(missing),
        sealed=tuple(sealed),
        dropped=dropped,
    )


def _counted(parts: Sequence[Part], place: int, dropped: Dropped | None) -> Mapping[str, object]:
    """Return the facts of a part with counts of what was not dropped, None if not known.

    The counts are of all that was recorded since the beginning, dropped or not.
    """
    part = parts[place]
    if dropped is None and len(parts) == 1:
        return part.facts
    counts = dict(part.facts)
    for name in COUNTS:
        gone: int | None = 0 if dropped is None else getattr(dropped, name)
        last = place == len(parts) - 1
        end = part.facts.get(name) if last else parts[place + 1].before[name]
        begun = part.before[name]
        counts[name] = None
        if isinstance(end, int) and gone is not None and begun is not None:
            counts[name] = end - max(begun, gone)
    return counts


def _read_list(path: Path) -> tuple[Listed, list[Missing]]:
    """Return the list of what was sealed, and what of the list itself is lost."""
    try:
        listed = read_list(path)
    except FileNotFoundError:
        return Listed([], 0, None), []
    except FileError as error:
        return Listed([], 0, None), [Missing(LIST_FILE, str(error).removeprefix(f"{path}: "))]
    lost = f"{listed.damaged} of its lines are damaged: whether more is missing is unknown"
    return listed, [Missing(LIST_FILE, lost)] if listed.damaged else []


def _open_sealed(
    path: Path, there: Mapping[str, Path], number: int, known: Sealed | None
) -> tuple[list[Segment], list[Missing], list[Exception]]:
    """Open the segments of a number; what is not there, or not what was sealed, is missing."""
    found: dict[str, Segment] = {}
    lost: dict[str, str] = {}
    refused: list[Exception] = []
    for table in TABLES:
        sealed = known.files.get(table) if known else None
        if table not in there:
            if sealed or (known is None and table == SAMPLES.name):
                lost[table] = "is not there"
            continue
        try:
            segment = _segment(table, there[table])
        except FileNotFoundError:
            raise
        except (SockrecError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EIO, errno.EUCLEAN):
                raise
            refused.append(error)
            lost[table] = str(error).removeprefix(f"{there[table]}: ")
            continue
        if sealed and (segment.footer, segment.rows) != (sealed.footer, sealed.rows):
            lost[table] = "is not the file that was sealed"
        else:
            found[table] = segment
    for table in TOGETHER & found.keys() if TOGETHER & lost.keys() else ():
        lost[table] = TOGETHER_WHY
        del found[table]
    missing = [
        Missing(
            f"{table}/{segment_name(number)}",
            why,
            known.files[table].rows if known and table in known.files else None,
            known.first if known else None,
            known.last if known else None,
            table,
        )
        for table, why in lost.items()
    ]
    return list(found.values()), missing, refused


def _present(
    path: Path, listed: Mapping[str, frozenset[str]], number: int, suffix: str
) -> dict[str, Path]:
    name = f"{number:06d}{suffix}"
    return {table: path / table / name for table in TABLES if name in listed[table]}


def _segment(table: str, path: Path) -> Segment:
    segment = read_segment(path, follow=False)
    if segment.table.name != table:
        raise RecordingError(f"{path}: is of table {segment.table.name}")
    return segment


def _facts(path: Path, text: str | None = None) -> Mapping[str, object]:
    """Return the facts in recording.json, or in what a segment has of it."""
    try:
        return parse_facts(path, read_facts(path) if text is None else text)
    except FileError as error:
        raise RecordingError(str(error)) from error
