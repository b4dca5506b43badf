"""A text log of ss or netstat, read line by line: samples, and what could not be read.

A sample is what stands between two dates. Where a log has no dates, or one for all, each header
begins a sample. A log is read twice: first for how it is written, which its first lines need not
show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from recorder.imports import netstat, ss_log
from recorder.imports.moments import MomentError, Moments
from recorder.imports.rows import STEPS, Row, Told
from recorder.imports.ss_words import TCP_INFO_MARK, ZERO_WHEN_LEFT_OUT, read_words
from recorder.schema import SockrecError

FIRST_UNREAD = 5
"""Lines that are shown of those that could not be read."""

_LONGEST = 1 << 20
"""Bytes of a line; of what is longer the rest counts as another."""

_GAP_US = 1_000_000
"""Lines that bear their own dates and have no header are of one sample if no more lies between."""

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_OLD_V6 = re.compile(r"(?:^|\s):::(?:\d+|\*)(?=\s|$)", re.ASCII)
_NEW = re.compile(r"(?:^|\s)(?:0\.0\.0\.0(?:%\S+)?:(?:\d+|\*)|\[[0-9a-fA-F:.]*\])", re.ASCII)
_HAS_OPTIONS = re.compile(r"(?:^|\s)(?:ts|sack)\s", re.ASCII)
_WORDS = re.compile(r"\b(?:(retrans):\d+/\d+|([a-z_]+):\d)")
_LEFT_OUT_WORDS = {
    "retrans": ("tcpi_retrans", "total_retrans"),
    "notsent": ("notsent_bytes",),
    "ato": ("ato_us",),
    "rcv_rtt": ("rcv_rtt_us",),
    "busy": ("busy_time_us",),
    "rwnd_limited": ("rwnd_limited_us",),
    "sndbuf_limited": ("sndbuf_limited_us",),
    "lastsnd": ("last_data_sent_ms",),
    "lastrcv": ("last_data_recv_ms",),
    "lastack": ("last_ack_recv_ms",),
} | {name: (name,) for name in ZERO_WHEN_LEFT_OUT}
"""The words of ss that stand for columns which are 0 if it leaves them out."""

_ALWAYS_KNOWN = frozenset("unacked tcpi_retrans total_retrans lost sacked".split())
"""Those that every ss prints."""


class LogError(SockrecError):
    """A log that cannot be imported; says what to give."""


@dataclass(slots=True)
class Table:
    """What one run of a command printed: rows of one kind, or of several if there is a netid."""

    columns: ss_log.SsHeader
    by_netstat: bool = False
    command: ss_log.SsCommand | None = None
    rows: list[Told] = field(default_factory=list)
    broken: int = 0
    """Lines that look like sockets and could not be read."""
    line: int = 0
    headed: bool = True


@dataclass(slots=True)
class Sample:
    """One look at the sockets. ``time_us`` is None where the log does not tell."""

    file: Path
    line: int
    time_us: int | None
    tables: list[Table] = field(default_factory=list)


@dataclass(slots=True)
class Unread:
    """Lines that could not be read: how many, and the first of them."""

    count: int = 0
    first: list[tuple[str, int, str]] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    """Words beside sockets that no column is known for, and how often."""

    def add(self, file: Path, number: int, text: str) -> None:
        self.count += 1
        if len(self.first) < FIRST_UNREAD:
            self.first.append((file.name, number, text[:200]))

    def add_words(self, words: Sequence[str]) -> None:
        for word in words:
            name = word.partition(":")[0][:40]
            if name in self.words or len(self.words) < 100:
                self.words[name] = self.words.get(name, 0) + 1


@dataclass(slots=True)
class Style:
    """How a log is written."""

    dates: int = 0
    """Different times in it, of lines of their own or before each line."""
    headers: int = 0
    has_options: bool = False
    """Whether its ss names TCP options other than the window scale, which it does by -o or -e."""
    any_family: str = "inet6"
    known: set[str] = field(default_factory=lambda: set(_ALWAYS_KNOWN))
    """Columns that its ss knows, so that they are 0 where it leaves them out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the log does not tell. Without ``kind`` what a listing without Netid has tells it."""

    timezone: tzinfo | None = None
    start: str | None = None
    interval_us: int | None = None
    kind: str | None = None


@dataclass(slots=True)
class _Line:
    number: int
    text: str
    stamp: int | None
    """The time before it."""
    moment: int | None
    """The time that it is."""


class Log:
    """One file."""

    def __init__(self, path: Path, options: Options, unread: Unread) -> None:
        self.path = path
        self._options = options
        self._unread = unread
        self._moments = self._make_moments()
        self.start: int | None = None
        """The first time in it."""
        self.assumed_utc = self.undated = False
        self.style = self._look()
        self._kinds: dict[int, str] = {}
        """The kind of each listing of a sample, as a sample before told it."""
        self.assumed_tcp = False
        """Whether a table was taken for TCP though nothing in it says so."""

    def _make_moments(self) -> Moments:
        options = self._options
        day = None
        if options.start is not None:
            start_us = Moments(options.timezone).of_option(options.start)
            day = datetime.fromtimestamp(start_us / 1e6, options.timezone or UTC)
        return Moments(options.timezone, None if day is None else day.replace(tzinfo=None))

    @property
    def dated(self) -> bool:
        """Whether dates say where its samples begin."""
        return self.style.dates > 1 or (self.style.dates == 1 and self._options.interval_us is None)

    def _lines(self) -> Iterator[_Line]:
        moments = self._moments
        with self.path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
                text = _ESCAPE.sub("", raw.decode("utf-8", "backslashreplace")).strip()
                if not text:
                    continue
                try:
                    moment = moments.of_line(text)
                    stamp = None
                    if moment is None:
                        stamp, text = moments.before(text)
                except MomentError as error:
                    raise LogError(f"{self.path}: line {number}: {error}") from error
                yield _Line(number, text.strip(), stamp, moment)

    def _look(self) -> Style:
        style = Style()
        last: int | None = None
        old = new = False
        for line in self._lines():
            text = line.text
            when = line.moment if line.moment is not None else line.stamp
            if when is not None and when != last:
                style.dates += 1
                last = when
                self.start = when if self.start is None else self.start
            if ss_log.header(text) or netstat.header(text):
                style.headers += 1
            style.has_options |= _HAS_OPTIONS.search(text) is not None
            old |= _OLD_V6.search(text) is not None
            new |= _NEW.search(text) is not None
            for found in _WORDS.finditer(text):
                style.known.update(_LEFT_OUT_WORDS.get(found[1] or found[2], ()))
        if old and not new:
            style.any_family = "inet"
        self.assumed_utc, self.undated = self._moments.without_zone, self._moments.undated
        self._moments = self._make_moments()
        return style

    def samples(self) -> Iterator[Sample]:
        """Yield its samples, those without any table left out."""
        reader = _Reader(self.path, self.style, self.dated, self._options, self._unread)
        for line in self._lines():
            done = reader.take(line)
            if done is not None:
                yield self._finish(done)
        if (done := reader.end()) is not None:
            yield self._finish(done)

    def _finish(self, sample: Sample) -> Sample:
        for place, table in enumerate(sample.tables):
            self._name(table, place)
            for told in table.rows:
                self._unread.add_words(told.unknown)
                row = told.row
                if TCP_INFO_MARK in row:
                    if self.style.has_options:
                        row.setdefault("options", 0)
                    else:
                        row.pop("options", None)
                    for name in self.style.known:
                        if name != "sacked" or row.get("state") != "LISTEN":  # its backlog then
                            row.setdefault(name, 0)
                if "cookie" in row and row["family"] in ("inet", "inet6"):
                    row.setdefault("uid", 0)  # ss leaves it out
        return sample

    def _name(self, table: Table, place: int) -> None:
        """Give the rows of a table their kind and state where the line has none."""
        rows = [told.row for told in table.rows]
        bare = [row for row in rows if "netid" not in row]
        command = table.command
        if bare:
            kind = self._kind_of(bare, command, place)
            for row in bare:
                row["netid"] = kind
        if command is not None and command.state is not None and not table.columns.has_state:
            for row in rows:
                row.setdefault("state", command.state)

    def _kind_of(self, rows: Sequence[Row], command: ss_log.SsCommand | None, place: int) -> str:
        if self._options.kind is not None:
            return self._options.kind
        kind = command.kind if command is not None else None
        if kind is None and any(ss_log.tells_tcp(row) for row in rows):
            kind = "tcp"
        if kind is None:
            kind = self._kinds.get(place)
        if kind is None and any(row.get("state") == "UNCONN" for row in rows):
            kind = "udp"
        if kind is None:
            self.assumed_tcp = True
            return "tcp"
        self._kinds[place] = kind
        return kind


class _Reader:
    """Puts the lines of a log together to samples."""

    def __init__(
        self, path: Path, style: Style, dated: bool, options: Options, unread: Unread
    ) -> None:
        self._path = path
        self._style = style
        self._dated = dated
        self._options = options
        self._unread = unread
        self._sample: Sample | None = None
        self._table: Table | None = None
        self._row: Told | None = None
        self._half: _Line | None = None
        self._command: ss_log.SsCommand | None = None
        self._stamp: int | None = None
        self._seen_rows = False

    def take(self, line: _Line) -> Sample | None:
        """Take a line; return the sample that it ended, if it has a table."""
        if line.moment is not None:
            self._give_up_half()
            self._row = self._command = None
            return self._begin(line.number, line.moment)
        done = self._stamped(line)
        text = line.text
        if not text:
            return done
        if ss_log.begins(text) or netstat.begins(text):
            self._give_up_half()
        elif (columns := ss_log.header(text)) is not None:
            return self._header(line, Table(columns, line=line.number)) or done
        elif netstat.header(text):
            return self._header(line, Table(ss_log.SsHeader(), True, line=line.number)) or done
        elif (command := ss_log.command(text)) is not None:
            self._command, self._row = command, None
            return done
        elif netstat.command(text):
            self._row = None
            return done
        self._socket(line)
        return done

    def end(self) -> Sample | None:
        """Return the last sample."""
        self._give_up_half()
        sample, self._sample = self._sample, None
        return sample if sample is not None and sample.tables else None

    def _stamped(self, line: _Line) -> Sample | None:
        """Begin a sample if the time before a line says so."""
        if line.stamp is None or not self._dated:
            return None
        before, self._stamp = self._stamp, line.stamp
        is_header = ss_log.header(line.text) or netstat.header(line.text)
        apart = before is None or abs(line.stamp - before) > _GAP_US
        if is_header or (apart and not self._style.headers):
            return self._begin(line.number, line.stamp)
        return None

    def _begin(self, number: int, time_us: int | None) -> Sample | None:
        """Begin a sample, unless it is the same; return the one before if it has a table."""
        before = self._sample
        if before is not None and self._dated and before.time_us == time_us:
            self._table = None
            return None
        if not self._dated and before is not None and not before.tables:
            before = None
        if before is not None and not before.tables and self._seen_rows and not self._style.headers:
            before.tables.append(Table(ss_log.SsHeader(), line=before.line))  # no socket, no header
        if not self._dated and time_us is not None:
            return None  # the one date is the start
        self._sample = Sample(self._path, number, time_us)
        self._table = None
        return before if before is not None and before.tables else None

    def _header(self, line: _Line, table: Table) -> Sample | None:
        self._give_up_half()
        self._row = None
        done = None
        again = self._table is not None and not (
            table.by_netstat and self._table.by_netstat and not self._table.rows
        )
        if not self._dated and (again or self._sample is None):
            unix_part = table.by_netstat and "UNIX" in line.text
            refcnt = table.by_netstat and "RefCnt" in line.text
            if not unix_part and not refcnt:
                done = self._begin(line.number, None)
        self._open(line.number, table)
        return done

    def _open(self, number: int, table: Table) -> None:
        if self._sample is None:
            self._sample = Sample(self._path, number, None)
        current = self._table
        if table.by_netstat and current is not None and current.by_netstat and not current.rows:
            return  # the second line of its header
        table.command = self._command
        self._table = table
        self._sample.tables.append(table)

    def _socket(self, line: _Line) -> None:
        """Read what is a socket, the rest of one, or neither."""
        text = line.text
        if self._half is not None:
            half, self._half = self._half, None
            if self._read(half, f"{half.text} {text}"):
                return
            self._refuse(half)
        if self._read(line, text):
            return
        if self._row is not None:
            rest = Told(dict(self._row.row))
            if read_words(text, rest):
                self._row.row |= rest.row
                self._row.unknown += rest.unknown
                return
        if ss_log.is_half(text):
            self._half = line
            self._row = None
            return
        self._refuse(line)

    def _read(self, line: _Line, text: str) -> bool:
        table = self._table
        columns = table.columns if table is not None else ss_log.SsHeader()
        # after a header of ss a line may look like netstat's
        told = netstat.read(text) if table is None or table.by_netstat else None
        by_netstat = told is not None
        if told is None:
            told = ss_log.read(text, columns, self._style.any_family)
        if told is None and not by_netstat:
            told = netstat.read(text) if table is not None and not table.headed else None
            by_netstat = told is not None
        if told is None:
            return False
        if table is None:
            table = Table(columns, by_netstat, headed=False)
            self._open(line.number, table)
            table = self._table
        assert table is not None
        table.by_netstat |= by_netstat
        table.rows.append(told)
        self._row = told
        self._seen_rows = True
        return True

    def _give_up_half(self) -> None:
        if self._half is not None:
            half, self._half = self._half, None
            self._refuse(half)

    def _refuse(self, line: _Line) -> None:
        self._unread.add(self._path, line.number, line.text)
        self._row = None
        is_socket = ss_log.begins(line.text) or netstat.begins(line.text)
        if is_socket and self._table is not None:
            self._table.broken += 1


def step_of(row: Row) -> str:
    """Return the table of the kernel that a socket is of."""
    return STEPS[str(row["netid"])]
