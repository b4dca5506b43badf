"""The prompt of ``sockrec sql``: a line becomes a query, a report or a command of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.shortcuts import clear

from analyzer.screen.cells import printable
from analyzer.screen.pager import paged
from analyzer.screen.prose import two_columns, width_of
from analyzer.sql.header import Query, parse_query, read_folder
from analyzer.sql.views import added
from analyzer.sql.work import Unparsed
from recorder.schema import SOCKETS, TABLES, SockrecError

COMMANDS = {
    ".tables": "the tables and views, one sentence each",
    ".schema": "TABLE: its columns",
    ".reports": "the reports",
    ".report": "NAME [PARAMETER=VALUE …]: run a report",
    ".clear": "clear the screen, as Ctrl-L does",
    ".help": "this",
    ".quit": "leave, as Ctrl-D does",
}
_LEAVING = ("exit", "quit", "\\q")
_PLAIN_WORDS = dict.fromkeys(_LEAVING, ".quit") | {
    "clear": ".clear",
    "help": ".help",
    "?": ".help",
}

KEYWORDS = tuple(
    "ALL AND ANTI ANY AS ASC ASOF BETWEEN BY CASE CAST COLUMNS CROSS DESC DESCRIBE DISTINCT ELSE "
    "END EXCEPT EXCLUDE EXISTS FALSE FILTER FIRST FOLLOWING FROM FULL GROUP HAVING ILIKE IN INNER "
    "INTERSECT INTERVAL IS JOIN LAST LATERAL LEFT LIKE LIMIT NATURAL NOT NULL NULLS OFFSET ON OR "
    "ORDER OUTER OVER PARTITION PIVOT POSITIONAL PRECEDING QUALIFY RANGE RECURSIVE REPLACE RIGHT "
    "ROW ROWS SAMPLE SELECT SEMI SUMMARIZE THEN TIMESTAMP TRUE UNBOUNDED UNION UNPIVOT USING "
    "VALUES WHEN WHERE WINDOW WITH WITHIN".split()
)

_HELP = """\
A SELECT runs on Enter once it is whole, else at a ; or an empty line. Tab completes, the arrows and
Ctrl-R find what was asked before, Alt-Enter begins a line, Ctrl-C stops.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """What the prompt tells and completes of a table: one sentence, and each column's."""

    title: str
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the prompt may ask for; each prints its answer or raises SockrecError.

    ``check`` only says whether a text is one query, and runs nothing.
    """

    check: Callable[[str], None]
    sql: Callable[[str], None]
    report: Callable[[str, Sequence[str]], None]


class Prompt:
    """A conversation, until its user leaves.

    ``tables`` are what can be asked, ``reports`` the catalogue, by name.
    """

    def __init__(
        self,
        answers: Answers,
        tables: Mapping[str, Table],
        reports: Mapping[str, Query],
        out: TextIO,
    ) -> None:
        self._answers = answers
        self._tables = tables
        self._reports = reports
        self._out = out

    def run(self, history: Path | None) -> None:
        """Ask for lines and answer them, until Ctrl-D or .quit."""
        session: PromptSession[str] = PromptSession(
            history=open_history(history),
            completer=Suggestions(self._tables, self._reports),
            complete_while_typing=False,
            key_bindings=_bindings(self._answers.check),
            lexer=PygmentsLexer.from_filename("query.sql"),
            multiline=True,
            rprompt=_hint,
            prompt_continuation=lambda width, line, wraps: "...".rjust(width - 1) + " ",
        )
        self._out.write("Tables: .tables. Help: .help. Leave: Ctrl-D.\n")
        while True:
            try:
                self._out.flush()
                with _ended_in_its_loop(session.app):
                    line = session.prompt("sockrec> ")
                if not self.obey(line):
                    return
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def obey(self, text: str) -> bool:
        """Do what a line says; return whether the conversation goes on.

        Ctrl-C ends what the line began, an error is told in one line.
        """
        line = text.strip().rstrip(";").strip()
        line = ".quit" if _leaves(line) else _PLAIN_WORDS.get(line.lower(), line)
        if line in (".quit", ".exit"):
            return False
        try:
            if line.startswith("."):
                self._command(line)
            elif line:
                self._answers.sql(line)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        except SockrecError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            for note in getattr(error, "__notes__", ()):
                print(printable(note), file=sys.stderr)
        return True

    def _command(self, line: str) -> None:
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            raise SockrecError(f"{line}: {error}") from error
        match name, words:
            case ".tables", []:
                self._pairs({name: table.title for name, table in self._tables.items()})
            case ".schema", [table] if table in self._tables:
                self._pairs(self._tables[table].columns)
            case ".schema", [table]:
                raise SockrecError(f"there is no table {table!r}: .tables lists them")
            case ".reports", []:
                self._pairs({name: report.title for name, report in self._reports.items()})
            case ".report", [report, *parameters]:
                self._answers.report(report, parameters)
            case ".clear", []:
                clear()
            case ".help", []:
                self._pairs(COMMANDS)
                self._out.write(_HELP)
            case command, _ if command in COMMANDS:
                raise SockrecError(f"{command} {COMMANDS[command]}")
            case _:
                raise SockrecError(f"there is no command {name!r}: .help lists them")

    def _pairs(self, pairs: Mapping[str, str]) -> None:
        with paged(self._out) as out:
            for line in two_columns(list(pairs.items()), width_of(self._out)):
                out.write(line + "\n")


class _Signalled(Exception):
    """A signal came while a line was typed."""


@contextmanager
def _ended_in_its_loop(app: Application[str]) -> Iterator[None]:
    """While a line is typed, let a signal end that first, then raise SystemExit.

    Raised by a handler, it could come out of any callback of the loop, and be told as its fault.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if app.loop is None:
            raise SystemExit(128 + number)
        app.loop.call_soon_threadsafe(leave, number)

    def leave(number: int) -> None:
        if app.is_running and not app.is_done:
            app.exit(exception=_Signalled(number))

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except _Signalled as signalled:
        raise SystemExit(128 + signalled.args[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Suggestions(Completer):
    """What may follow: tables, columns of the tables that are named, keywords; report names."""

    def __init__(
        self,
        tables: Mapping[str, Table],
        reports: Mapping[str, Query],
    ) -> None:
        self._tables = tables
        self._reports = reports

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        before = document.text_before_cursor
        if before.lstrip().startswith("."):
            yield from self._of_command(before.lstrip())
        elif before.count("'") % 2 == 0:
            yield from self._of_query(before, document.text)

    def _of_command(self, before: str) -> Iterator[Completion]:
        *words, last = before.split(" ")
        match [word for word in words if word]:
            case []:
                yield from _starting(last, COMMANDS)
            case [".schema"]:
                yield from _starting(last, {n: t.title for n, t in self._tables.items()})
            case [".report"]:
                yield from _starting(last, {n: q.title for n, q in self._reports.items()})
            case [".report", name, *_] if name in self._reports:
                params = self._reports[name].params
                yield from _starting(last, {f"{p.name}=": p.doc for p in params})

    def _of_query(self, before: str, text: str) -> Iterator[Completion]:
        place = re.search(r"(?:\b(\w+)\.)?(\w*)$", before)
        owner, word = (place[1], place[2]) if place else (None, "")
        named = _named_tables(text, self._tables)
        if owner is not None:
            if table := named.get(owner.lower()):
                yield from _starting(word, table.columns)
            return
        if not word:
            return
        columns = {name: of for table in named.values() for name, of in table.columns.items()}
        yield from _starting(word, columns)
        yield from _starting(word, {name: table.title for name, table in self._tables.items()})
        yield from _starting(word, dict.fromkeys(KEYWORDS, ""))


def _starting(word: str, known: Mapping[str, str]) -> Iterator[Completion]:
    for name, meta in known.items():
        if name.lower().startswith(word.lower()):
            yield Completion(name, start_position=-len(word), display_meta=meta)


def _named_tables(text: str, tables: Mapping[str, Table]) -> dict[str, Table]:
    """Return the tables that a query names, by their names and their aliases in lower case."""
    found = {}
    for name, table in tables.items():
        for match in re.finditer(rf"\b{name}\b(?:\s+(?:as\s+)?(\w+))?", text, re.IGNORECASE):
            found[name] = table
            if match[1] and match[1].upper() not in KEYWORDS:
                found[match[1].lower()] = table
    return found


def is_whole(text: str, check: Callable[[str], None]) -> bool:
    """Return whether Enter is to run a text, not to begin another line of it."""
    line = text.strip()
    if not line or line.startswith(".") or line.lower() in _PLAIN_WORDS:
        return True
    if line.endswith(";") or text.endswith("\n") or _leaves(line):
        return True
    try:
        check(line)
    except Unparsed:
        return False
    except SockrecError:
        return True  # it will not go away by more text
    if line.endswith(","):  # which DuckDB allows
        return False
    # Whole as well, but hardly meant, is what names columns and no table yet.
    named = re.search(r"\b(?:from|table|values|describe|summarize)\b", line, re.IGNORECASE)
    return bool(named) or not _wants_table(line)


def _wants_table(line: str) -> bool:
    """Return whether a SELECT without FROM seems to name columns: `SELECT 7 AS n` does not."""
    bare = re.sub(r"'(?:[^']|'')*'|--.*", " ", line)
    if re.search(r"(?:\bselect|\bdistinct|[(,])\s*\*", bare, re.IGNORECASE):
        return True
    # Without its aliases, types and functions.
    name = r'(?:\w+|"[^"]*")'
    bare = re.sub(rf"\bas\s+{name}|::\s*\w+|\w+\s*(?=\()", " ", bare, flags=re.IGNORECASE)
    words = re.findall(r'"|(?<![\w.])[^\W\d]\w*', bare)
    return any(word.upper() not in KEYWORDS for word in words)


def _leaves(line: str) -> bool:
    """Return whether the last line of a query that was begun says to leave."""
    before, newline, last = line.rpartition("\n")
    return bool(newline) and last.strip().lower() in _LEAVING and before.count("'") % 2 == 0


def described_tables() -> dict[str, Table]:
    """Return the tables and views that a query sees, by name."""
    tables = {
        table.name: Table(
            table.doc.partition(". ")[0].removesuffix(".") + ".",
            {c.name: f"{c.doc} {f'({c.unit})' if c.unit else ''}".strip() for c in table.columns}
            | added(table),
        )
        for table in TABLES.values()
    }
    for name, text in read_folder("views").items():
        view = parse_query(name, text)
        tables[name] = Table(f"{view.title}.", view.columns)
    tables["baseline"] = Table(
        "With --from, the last row before that time of each socket in sockets.",
        tables[SOCKETS.name].columns,
    )
    tables["params"] = Table(
        "One row: the parameters of a report, and the time that is asked about.",
        {
            "from_us": "What --from says, in microseconds UTC; nothing without it.",
            "to_us": "What --to says.",
        },
    )
    return tables


def _hint() -> StyleAndTextTuples:
    """Say how a query over several lines is run, while it is typed."""
    app = get_app()
    if app.is_done or "\n" not in app.current_buffer.text:
        return []
    return [("fg:ansibrightblack", "; or an empty line runs it ")]


def _bindings(check: Callable[[str], None]) -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_whole(buffer.text, check):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def _line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def history_path(environ: Mapping[str, str]) -> Path:
    """Return where the lines of earlier conversations are kept."""
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # as the XDG specification says
        state = Path(os.path.expanduser("~")) / ".local" / "state"
    return state / "sockrec" / "history"


def open_history(path: Path | None) -> History:
    """Return the history of a file that nobody else may read, one in memory if there is none."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


def read_query(lines: Iterable[str]) -> str:
    """Return the query of a text that is no terminal's."""
    return "".join(lines).strip().removesuffix(";").strip()
