"""What is asked of which recording, and its answer on the screen or in a file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from analyzer.cells import printable
from analyzer.output import destination
from analyzer.progress import Bar
from analyzer.render import Format, Look, write

if TYPE_CHECKING:
    from analyzer import Analysis, Answer
    from analyzer.header import Query
    from analyzer.views import Scope


@dataclass(frozen=True, slots=True)
class Request:
    """Of which recording, what of it, and how to print it.

    ``zone`` is an IANA name; ``start`` and ``end`` are as Analysis.sql takes them.
    """

    recordings: Sequence[Path]
    start: str | None
    end: str | None
    where: str | None
    zone: str
    form: Format
    output: Path | None
    threads: int | None
    memory: str | None
    timeout: float | None

    @contextmanager
    def opened(self) -> Iterator[Analysis]:
        """Open the recording, within the limits that are asked for.

        A query that Ctrl-C cannot stop ends with the process, when all else is cleared away. So
        does a terminal that is closed, or a plain kill, clear away what is in temporary files.
        """
        import analyzer
        from analyzer.engine import leave

        try:
            with (
                _signals_end(),
                analyzer.open(
                    *self.recordings,
                    threads=self.threads,
                    memory_limit=self.memory,
                    timeout=self.timeout,
                ) as opened,
            ):
                yield opened
        except KeyboardInterrupt:
            leave(130)
            raise
        except SystemExit as end:
            leave(end.code if isinstance(end.code, int) else 1)
            raise
        leave(0)

    def sql(self, opened: Analysis, query: str) -> None:
        """Print what a query gives."""
        answer = opened.sql(query, start=self.start, end=self.end, where=self.where)
        if not self.show(opened, answer, Look(self.zone)) and sys.stdout.isatty():
            _note("no rows")

    def report(self, opened: Analysis, report: Query, given: Mapping[str, str]) -> None:
        """Print a report; if it has no rows, tell what of the recording it lacked."""
        from analyzer import Answer

        values = report.values(given)  # of any names, which keywords could not have
        scope = opened.scope(self.start, self.end, self.where)
        answer = Answer(opened.engine, report.sql, scope, values)
        _, top = values.get("top", ("BIGINT", 0))
        if not self.show(opened, answer, Look(self.zone, report.title, report.chart, int(top))):
            why = "; ".join(_lacks(opened, scope, report))
            _note(f"no rows: {why}" if why else "no rows")

    def summary(self, opened: Analysis, given: Mapping[str, str]) -> None:
        """Print what is wrong, in words or as rows."""
        from shutil import get_terminal_size
        from zoneinfo import ZoneInfo

        from analyzer.summary import lines, summarize

        done: list[float] = []
        with (
            Bar(lambda: done[-1] if done else None, sys.stderr),
            destination(self.output, self._own(opened)) as out,
        ):
            scope = opened.scope(self.start, self.end, self.where)
            found = summarize(opened.engine, scope, given, lambda n, of: done.append(n / of))
            if self.form is Format.table:
                width = get_terminal_size().columns if out.isatty() else None
                name = str(self.recordings[0])
                for line in lines(found, name, zone=ZoneInfo(self.zone), width=width):
                    out.write(line + "\n")
            else:
                table = found.table()
                write(table.schema, table.to_batches(), self.form, out, Look(self.zone))

    def show(self, opened: Analysis, answer: Answer, look: Look) -> int:
        """Print an answer and return how many rows it has."""
        with (
            Bar(opened.engine.progress, sys.stderr) as bar,
            destination(self.output, self._own(opened)) as out,
            answer.batches() as (schema, batches),
        ):
            # A pager may share the terminal with the bar; a file does not.
            if self.output is None:
                look = replace(look, begin=bar.stop)
            return write(schema, batches, self.form, out, look)

    def _own(self, opened: Analysis) -> list[Path]:
        """Return what is never written."""
        return [*self.recordings, *opened.engine.recording.paths]


@contextmanager
def _signals_end() -> Iterator[None]:
    """Let a signal that would kill end the block as an exit does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lacks(opened: Analysis, scope: Scope, report: Query) -> list[str]:
    """Return why the recording cannot say what the report rests on."""
    from analyzer.summary import lacking

    lacks = lacking(opened.engine, scope)
    return list(dict.fromkeys(lacks[need] for need in report.needs if need in lacks))


def _note(text: str) -> None:
    print(f"sockrec: {printable(text)}", file=sys.stderr)
