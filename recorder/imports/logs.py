"""Text logs of ss and netstat as one recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from recorder.imports.identity import Identities
from recorder.imports.log import Log, LogError, Options, Sample, Table, Unread, step_of
from recorder.imports.moments import Moments
from recorder.imports.recording import HOST, Imported, Recording, Step, columns_of
from recorder.imports.rows import Row

_GROUPS = (
    ("timers (timer)", "timer", "-o"),
    ("owners of sockets (pid, comm, fd)", "pid", "-p"),
    ("users, inodes and the kernel's own identities (uid, inode, cookie)", "inode", "-e"),
    ("memory of sockets (skmem)", "rcvbuf", "-m"),
    ("tcp_info (rtt_us, snd_cwnd, bytes_acked …)", "snd_cwnd", "-i"),
)
"""What an option of ss would have shown, a column that tells whether it did, and the option."""


class _Clock:
    """When each sample was taken: as the log says, or at even steps from a start that was given."""

    def __init__(self, options: Options) -> None:
        self._interval = options.interval_us
        self._start = (
            None if options.start is None else Moments(options.timezone).of_option(options.start)
        )
        self._taken = 0
        self._last: int | None = None
        self.left_out: list[Sample] = []

    def of(self, sample: Sample, style_start: int | None) -> int | None:
        """Return the time of a sample, None if it lies before the sample before."""
        time_us = sample.time_us
        if time_us is None:
            time_us = self._counted(sample, style_start)
        if self._last is not None and time_us <= self._last:
            self.left_out.append(sample)
            return None
        self._last = time_us
        return time_us

    def _counted(self, sample: Sample, style_start: int | None) -> int:
        start = self._start if self._start is not None else style_start
        where = f"{sample.file}: line {sample.line}"
        if start is None:
            raise LogError(
                f"{where}: nothing in the log says when this was (the time of the file is that of "
                "its last copy): give --start TIME, and --interval TIME for what follows"
            )
        number, self._taken = self._taken, self._taken + 1
        if number and self._interval is None:
            raise LogError(
                f"{where}: the log goes on without a date: give --interval, the time between two "
                "listings"
            )
        return start + number * (self._interval or 0)


def import_logs(
    paths: Sequence[Path], output: Path, options: Options, host: str | None = None
) -> Imported:
    """Make a recording of logs, in the order given. Raises LogError, MomentError or OSError."""
    unread = Unread()
    logs = [Log(path, options, unread) for path in paths]
    clock = _Clock(options)
    samples = _timed(logs, clock)
    first = next(samples, None)
    if first is None:
        shown = "".join(f"; {line}" for line in _unread_lines(unread)[:1])
        if any(log.undated for log in logs):
            shown += "; its times lack the day or the year: give --start"
        raise LogError(f"{paths[0]}: no socket of ss or netstat is in it{shown}")
    recording = Recording(output, "log", [path.name for path in paths], first[0], host)
    reason = "failed"
    try:
        writer = _Writer(recording)
        writer.write(*first)
        for time_us, sample in samples:
            writer.write(time_us, sample)
        _tell(recording, writer, logs, clock, unread)
        reason = "imported"
    except LogError as error:
        error.add_note(f"{output}: has the samples before; remove it before you try again")
        raise
    finally:
        recording.end(reason)
    return recording.result


def _timed(logs: Sequence[Log], clock: _Clock) -> Iterator[tuple[int, Sample]]:
    for log in logs:
        for sample in log.samples():
            time_us = clock.of(sample, log.start)
            if time_us is not None:
                yield time_us, sample


class _Writer:
    """Writes the samples of logs, and remembers what they have."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._identities = Identities()
        self._kinds: dict[str, None] = {}
        """Tables that a listing with a column Netid has shown."""
        self.columns: set[str] = set()
        self.steps: set[str] = set()
        self.states: set[object] = set()
        self.stateless = 0
        self.selected = False
        self.commands = False
        self.by_ss = False
        self.repeated = 0
        self.by_cookie = False
        """Whether the log has the kernel's own."""

    def write(self, time_us: int, sample: Sample) -> None:
        found: dict[str, list[Row]] = {}
        broken = 0
        selects = False
        for table in sample.tables:
            self._take(table, found)
            broken += table.broken
            selects |= table.command is not None and table.command.selects
            self.commands |= table.command is not None
            self.by_ss |= not table.by_netstat
        self.selected |= selects
        detail: str | None = None
        if broken:
            detail = f"lines of sockets that could not be read: {broken}"
        elif selects:
            detail = "ss was asked for some of the sockets only"
        batches, steps = [], []
        holders: set[object] = set()
        for step, rows in found.items():
            kept, repeated = self._once(rows, sample)
            self.repeated += repeated
            self.by_cookie |= any("cookie" in row for row in kept)
            opened = self._identities.give(step, kept, self._recording.samples)
            for row in kept:
                self.columns.update(name for name, value in row.items() if value is not None)
                self.states.add(row.get("state"))
                self.stateless += "state" not in row
                if row.get("pid") is not None:
                    holders.add(row["pid"])
                    row["owner_time"] = time_us
            batches.append((len(kept), columns_of("sockets", kept)))
            steps.append(
                Step(
                    step,
                    len(kept),
                    "partial" if detail else "ok",
                    detail,
                    repeated,
                    opened if step == "tcp" else None,
                )
            )
        self.steps.update(found)
        if "pid" in self.columns:
            steps.append(Step("owners", len(holders), netns=HOST))
        self._recording.write(time_us, batches, steps)

    def _take(self, table: Table, found: dict[str, list[Row]]) -> None:
        """Add the rows of a listing to those of its tables."""
        if table.columns.has_netid or table.by_netstat:
            self._kinds.update((step_of(told.row), None) for told in table.rows)
            for kind in self._kinds:
                found.setdefault(kind, [])
        for told in table.rows:
            found.setdefault(step_of(told.row), []).append(told.row)
        if not table.rows and not table.columns.has_netid:
            for kind in self.steps - self._kinds.keys():
                found.setdefault(kind, [])

    @staticmethod
    def _once(rows: list[Row], sample: Sample) -> tuple[list[Row], int]:
        """Return the rows without those that are there twice, and how many these are."""
        seen: set[tuple[object, ...]] = set()
        kept = []
        for row in rows:
            key: tuple[object, ...] | None = None
            if "cookie" in row:
                key = (row["cookie"],)
            elif row.get("netid") == "tcp" and row.get("peer_port"):
                key = tuple(
                    row.get(name) for name in ("local_addr", "local_port", "peer_addr", "peer_port")
                )
            if key is not None and key in seen:
                continue
            if key is not None:
                seen.add(key)
            kept.append(row)
        repeated = len(rows) - len(kept)
        if repeated and 2 * repeated >= len(kept):
            raise LogError(
                f"{sample.file}: line {sample.tables[-1].line}: the same sockets are listed again "
                "without a date between: give --interval, the time between two listings, or put a "
                "date between them if they have no headers"
            )
        return kept, repeated


def _tell(
    recording: Recording, writer: _Writer, logs: Sequence[Log], clock: _Clock, unread: Unread
) -> None:
    """Say in the recording and to who asked what was not in the logs or could not be read."""
    result = recording.result
    for what, column, option in _GROUPS:
        if column not in writer.columns:
            why = f"not in the log (ss {option})" if writer.by_ss else "not in the log"
            recording.add_unseen(what, why)
    if not writer.by_cookie:
        recording.add_unseen(
            "whether a socket is the one of the sample before",
            "told by addresses, ports and state, as the log has no cookies (ss -e)",
        )
    if "tcp" in writer.steps and "LISTEN" not in writer.states:
        recording.add_unseen("listeners", "not in the log (ss -a)")
    if writer.stateless:
        recording.add_unseen(
            f"states of {writer.stateless} rows", "ss leaves them out where it is asked for one"
        )
    for step in ("tcp", "udp", "unix"):
        if step not in writer.steps:
            recording.add_unseen(f"{step} sockets", "not in the log")
    if not writer.commands:
        recording.add_unseen(
            "whether all sockets were asked for", "the log does not repeat the command"
        )
    if any(log.assumed_utc for log in logs):
        text = "times have no zone and are taken for UTC; --timezone says otherwise"
        recording.add_unseen("the time zone", text)
        result.told.append(text)
    if any(log.assumed_tcp for log in logs):
        text = "nothing says of which kind the sockets are, taken for tcp; --kind says otherwise"
        recording.add_unseen("the kind of some sockets", text)
        result.told.append(text)
    if writer.repeated:
        text = f"sockets listed twice in a sample, recorded once: {writer.repeated}"
        recording.add_unseen("repeated lines", text)
        result.told.append(text)
    if clock.left_out:
        first = clock.left_out[0]
        text = (
            f"samples left out, as they are not later than the sample before: "
            f"{len(clock.left_out)}, the first at {first.file.name}:{first.line}"
        )
        recording.add_unseen("samples out of order", text)
        result.told.append(text)
    lines = _unread_lines(unread)
    if lines:
        recording.add_unseen(f"lines of the log: {unread.count}", "; ".join(lines))
        result.told.append(f"lines that could not be read: {unread.count}")
        result.told += [f"  {line}" for line in lines]
    if unread.words:
        words = ", ".join(f"{word} ({count})" for word, count in list(unread.words.items())[:20])
        recording.add_unseen("words of the log", f"no column is known for them: {words}")
        result.told.append(f"words that no column is known for: {words}")


def _unread_lines(unread: Unread) -> list[str]:
    """Return the first lines that could not be read, with where they stand."""
    lines = [f"{name}:{number}: {text}" for name, number, text in unread.first]
    if unread.count > len(lines):
        lines.append(f"and {unread.count - len(lines):,} more")
    return lines
