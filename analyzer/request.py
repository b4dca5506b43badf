"""What is asked of which recording, and its answer on the screen or in a file."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from analyzer.guard import guarded, note, tell_missing, telling, wants_told
from analyzer.screen.names import Names
from analyzer.screen.output import destination
from analyzer.screen.progress import Bar
from analyzer.screen.prose import width_of
from analyzer.screen.render import Format, Look, write
from analyzer.screen.zones import UTC_NAME

if TYPE_CHECKING:
    from analyzer import Analysis, Answer
    from analyzer.sql.header import Query
    from analyzer.sql.marks import Mark
    from analyzer.sql.views import Scope


_MARKS_TOLD = 10
_OF_PROCESSES = (
    r"\b(pid|comm|start_us|owner_by|who|cmdline|exe|unit|slice|runtime|container|pod|user"
    r"|process)\b"
)


@dataclass(frozen=True, slots=True)
class Request:
    """Of which recording, what of it, and how to print it.

    ``zone`` is an IANA name; ``start`` and ``end`` are as Analysis.sql takes them.
    """

    recordings: Sequence[Path]
    start: str | None
    end: str | None
    where: str | None
    filter: str | None
    zone: str
    form: Format
    output: Path | None
    threads: int | None
    memory: str | None
    timeout: float | None
    names: Names = Names()  # noqa: RUF009 - it is frozen

    def opened(self) -> AbstractContextManager[Analysis]:
        """Open the recording, within the limits that are asked for."""
        return opened(
            self.recordings,
            threads=self.threads,
            memory_limit=self.memory,
            timeout=self.timeout,
        )

    def scope(self, opened: Analysis) -> Scope:
        """Return what is asked about. Raises TimeError."""
        return opened.scope(self.start, self.end, self.where, ZoneInfo(self.zone), self.filter)

    def sql(self, opened: Analysis, query: str) -> None:
        """Print what a query gives."""
        from analyzer import Answer

        opened.engine.check(query)
        answer = Answer(opened.engine, query, self.scope(opened), {})
        if not self.show(opened, answer, Look(self.zone)) and sys.stdout.isatty():
            note("no rows")
        tell_missing(opened.engine.sources)

    def report(self, opened: Analysis, report: Query, given: Mapping[str, str]) -> None:
        """Print a report; if it has no rows, tell what of the recording it lacked."""
        from analyzer import Answer
        from analyzer.sql.hosts import charted, lacking_each, naming
        from analyzer.sql.marks import marks
        from analyzer.sql.summary import netns_called

        values = report.values(given)  # of any names, which keywords could not have
        scope = self.scope(opened)
        answer = Answer(opened.engine, report.sql, scope, values, apart=True)
        _, top = values.get("top", ("BIGINT", 0))
        chart = charted(opened.engine, report)
        ranks = (*naming(opened.engine)[0], *report.ranks)
        called = netns_called(opened.engine, home=True) if self.form is Format.table else {}
        marked = marks(opened.engine, scope) if self.form is Format.table else []
        moments = [mark.us / 1e6 for mark in marked]
        look = Look(
            self.zone,
            report.title,
            chart,
            ranks,
            int(top),
            called=called,
            marks=moments,
            names=self.names,
        )
        shown = self.show(opened, answer, look)
        why = "; ".join(lacking_each(opened.engine, scope, report))
        if not shown:
            note(f"no rows: {why}" if why else "no rows")
        elif why:
            note(f"what rests on it is missing or too low: {why}")
        self._note_unknown(opened)
        for line in self._told(marked):
            note(f"marked: {line}")

    def summary(
        self, opened: Analysis, given: Mapping[str, str], only: Collection[str] | None = None
    ) -> str:
        """Print what is wrong, in words, as one object or as rows; return the verdict."""
        import json

        from analyzer.sql.account import account, verdict
        from analyzer.sql.hosts import summarize_each
        from analyzer.sql.marks import marks
        from analyzer.sql.summary import lines

        done: list[float] = []
        scope = self.scope(opened)
        with Bar(lambda: done[-1] if done else None, sys.stderr):
            found = summarize_each(
                opened.engine, scope, given, lambda n, of: done.append(n / of), only
            )
            told = account(opened.engine, found, scope) if self.form is Format.json else {}
        if self.form is Format.table:
            put = self.names.put
            rows = [{**row, "sentence": put(str(row["sentence"]))} for row in found.found]
            found = replace(found, found=tuple(rows))
        with destination(self.output, self._own(opened)) as out:
            if self.form is Format.table:
                out.writelines(
                    line + "\n"
                    for line in lines(
                        found,
                        self._again(),
                        zone=ZoneInfo(self.zone),
                        width=width_of(out),
                        narrowed=bool(self.start or self.end or self.where or self.filter),
                    )
                )
                marked = self._told(marks(opened.engine, scope))
                out.writelines(f"marked:   {line}\n" for line in marked)
            elif self.form is Format.json:
                out.write(json.dumps(told, indent=2, allow_nan=False) + "\n")
            else:
                table = found.table()
                write(table.schema, table.to_batches(), self.form, out, Look(self.zone))
        self._note_unknown(opened)
        return verdict(found)

    def show(self, opened: Analysis, answer: Answer, look: Look) -> int:
        """Print an answer and return how many rows it has."""
        written = 1  # where the reader of a pager has seen enough
        with (
            wants_told(),
            Bar(opened.engine.progress, sys.stderr) as bar,
            destination(self.output, self._own(opened)) as out,
            answer.batches() as (schema, batches),
        ):
            # A pager may share the terminal with the bar; a file does not.
            if self.output is None:
                look = replace(look, begin=bar.stop)
            written = write(schema, batches, self.form, out, look)
        return written

    def _told(self, found: Sequence[Mark]) -> list[str]:
        """Return marks in words, the latest of them."""
        from analyzer.sql.marks import words

        more = [f"and {len(found) - _MARKS_TOLD:,} more before"] * (len(found) > _MARKS_TOLD)
        return [*more, *(words(mark, ZoneInfo(self.zone)) for mark in found[-_MARKS_TOLD:])]

    def _again(self) -> str:
        """Return the recording and the scope as a command has them."""
        zone = None if self.zone == UTC_NAME else self.zone
        scope = [("--from", self.start), ("--to", self.end), ("--where", self.where)]
        scope += [("--filter", self.filter), ("--tz", zone)]
        options = [part for name, value in scope if value for part in (name, value)]
        return shlex.join([*map(str, self.recordings), *options])

    def _note_unknown(self, opened: Analysis) -> None:
        """Tell what a condition on processes cannot find."""
        asked = f"{self.where or ''} {self.filter or ''}"
        if not re.search(_OF_PROCESSES, asked):
            return
        scope = opened.scope(self.start, self.end, zone=ZoneInfo(self.zone))
        query = "SELECT count(*) AS n FROM closes WHERE connection AND pid IS NULL"
        count = opened.engine.table(query, scope)["n"][0].as_py()
        if count:
            note(
                f"of {count:,} closed connections no process is known: a condition on processes "
                "leaves them out, one on addresses and ports does not"
            )

    def _own(self, opened: Analysis) -> list[Path]:
        """Return what is never written."""
        return [*self.recordings, *opened.engine.paths]


@contextmanager
def opened(
    recordings: Sequence[Path],
    *,
    threads: int | None = None,
    memory_limit: str | None = None,
    timeout: float | None = None,
) -> Iterator[Analysis]:
    """Open a recording for a command, which ends with the block, as ``guarded`` has it."""
    import analyzer.sql.engine  # libraries are no part of what is bounded

    with (
        guarded(threads, memory_limit),
        analyzer.open(
            *recordings, threads=threads, memory_limit=memory_limit, timeout=timeout
        ) as analysis,
        telling(analysis.engine.sources),
    ):
        yield analysis
