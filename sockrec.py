"""The door: ``import sockrec`` for Python, and the command; both join recorder and analyzer.

import sockrec

with sockrec.open("incident") as recording:
    print(recording.summary())
    recording.report("churn", by="peer").df()
    recording.sql("SELECT state, count(*) AS sockets FROM sockets GROUP BY state")
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from analyzer import Analysis, Answer, open
from analyzer.screen.cells import printable
from analyzer.supervisor import READING, supervise
from recorder.console import tell
from recorder.schema import SockrecError
from recorder.store.imports import leave_out_pandas

if TYPE_CHECKING:
    from analyzer.reading.recording import RecordingError
    from analyzer.sql.catalog import CatalogError, ParameterError
    from analyzer.sql.summary import Summary
    from analyzer.sql.views import ScopeError
    from analyzer.sql.work import QueryError
    from recorder.format.times import TimeError

__all__ = [
    "Analysis",
    "Answer",
    "CatalogError",
    "ParameterError",
    "QueryError",
    "RecordingError",
    "ScopeError",
    "SockrecError",
    "Summary",
    "TimeError",
    "open",
]

_LATER = {
    "CatalogError": "analyzer.sql.catalog",
    "ParameterError": "analyzer.sql.catalog",
    "QueryError": "analyzer.sql.work",
    "RecordingError": "analyzer.reading.recording",
    "ScopeError": "analyzer.sql.views",
    "Summary": "analyzer.sql.summary",
    "TimeError": "recorder.format.times",
}
"""What is imported when it is asked for: its module loads what takes a second."""

_WIDEST = 120
"""Columns of help: longer lines are hard to read."""


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()[name] = _made(_PARTS)
        return globals()[name]
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_UsageError: Any = typer.BadParameter.__base__
"""What typer raises on every wrong use; it names only some of its kinds."""


class WrongUse(typer.BadParameter):
    """A wrong use in one line, and below it, where a text is wrong, the place in it."""

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            typer.echo(printable(line), err=True)


@contextmanager
def _wrong_use() -> Iterator[None]:
    """Let a wrong use be told in one line: what is wrong, where, and what to do."""
    try:
        yield
    except _UsageError as error:
        if type(error).show is not _UsageError.show:  # it tells help, or is told already
            raise
        raise WrongUse(f"sockrec: {_told(error)}") from error


def _told(error: Any) -> str:
    """Return in one line what is wrong and what to do; of a value the option or argument, too."""
    where = _where(error)
    if where and error.message:  # what is said of a value says what would be right
        return f"{where}: {error.message.rstrip('.')}"
    likely = " or ".join(_likely(error))
    guessed = getattr(error, "possibilities", None)
    text = error.message if guessed else error.format_message()
    text = text[:1].lower() + text[1:].rstrip(".").replace("'. Did", "': did")
    if likely or text.endswith("?"):
        return f"{text}: did you mean {likely}?" if likely else text
    path = error.ctx.command_path if error.ctx else "sockrec"
    return f"{text}: '{path} -h' shows how to use it"


def _likely(error: Any) -> list[str]:
    """Return which options may be meant by one that does not exist.

    What typer proposes is near for its dashes alone.
    """
    known = {name.strip("-"): name for name in getattr(error, "possibilities", None) or ()}
    if not known:
        return []
    from difflib import get_close_matches

    return [known[near] for near in get_close_matches(error.option_name.strip("-"), known)]


def _where(error: Any) -> str:
    """Return the name of the option or argument whose value is wrong, "" if none is."""
    if hint := getattr(error, "param_hint", None):
        return str(hint)
    parameter = getattr(error, "param", None)
    if parameter is None:
        return ""
    option = parameter.param_type_name == "option"
    return str(max(parameter.opts, key=len) if option else parameter.metavar)


class Commands(TyperGroup):
    """All commands, whose wrong uses are told in one line."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _wrong_use():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _wrong_use():
            return super().invoke(ctx)


class Command(TyperCommand):
    """A command whose help and errors have the words of its metavars, not those of Python's types.

    So that its arguments and numbers need a metavar.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return ["[OPTIONS]", *(str(p.metavar or p.name) for p in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        told: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            name, text = record
            text = text.removesuffix("[required]").rstrip()  # its sentence says it
            if parameter.param_type_name == "argument":
                name = str(parameter.metavar)
            told[parameter.param_type_name].append((name, text))
        for kind, records in told.items():
            if records:
                with formatter.section(f"{kind.capitalize()}s"):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            from recorder.cli import BEHIND

            ctx.meta[BEHIND] = len(args) - args.index("--") - 1
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            error.ctx = error.ctx or ctx
            error.message = error.message.removeprefix("Value error, ")
            raise


class _Awaited:
    """What loads no pydantic, by which typer reads words: that takes as long as ss to answer."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            # typer may come to have another way
            if getattr(parameter, "_runtime_param", parameter) is None:
                parameter._runtime_param = _Plain(parameter)
        return found


class AwaitedCommand(_Awaited, Command):
    """A command of flags, texts, paths and what its parsers read."""


class AwaitedCommands(_Awaited, Commands):
    """What has such a command."""


class _Plain:
    """Reads the words of a parameter, as typer's adapters do."""

    def __init__(self, parameter: Any) -> None:
        kind, given = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
        self._told = given.parser or (get_args(kind) or [kind])[0]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        return [self._told(one) for one in value] if several else self._told(value)


_PARTS = (
    "recorder.cli",
    "analyzer.cli",
    "analyzer.cli_ss",
    "analyzer.cli_diff",
    "analyzer.cli_sharing",
)
"""Where the commands are, in the order of help."""

_GOING_ON = {"recover", "save"}
"""The recorder's commands that read what was recorded, and may meet a disk or a file that fails."""

_ALONE = {"ss": "analyzer.cli_ss"}
"""Commands that are awaited: to load and build all others takes as long as to answer."""


def _made(
    parts: Iterable[str],
    group: type[TyperGroup] = Commands,
    kind: type[TyperCommand] = Command,
) -> typer.Typer:
    """Return the command with the commands of some parts."""
    made = typer.Typer(
        cls=group,
        help="Record what the sockets of this host are doing, and ask afterwards with SQL.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDEST},
        epilog="""\b
Examples:
  sockrec record -o incident -- ./load-test
  sockrec summary incident
  sockrec report churn incident

'sockrec COMMAND --help' has more of each.""",
    )
    made.callback()(_options)
    for part in parts:
        own: typer.Typer = import_module(part).app
        groups = [group.typer_instance for group in own.registered_groups]
        for command in chain(*(each.registered_commands for each in (own, *groups) if each)):
            command.cls = kind
        made.add_typer(own)
    return made


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sockrec {version('sockrec')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version."),
    ] = False,
) -> None:
    """Record what the sockets of this host are doing, and ask afterwards with SQL."""


def main() -> None:
    """Run the command: a known error is one line on stderr and exit status 1, a wrong use 2."""
    try:
        try:
            # behind an option of ours, as in --help ss, all are asked for
            if alone := _ALONE.get(sys.argv[1] if len(sys.argv) > 1 else ""):
                app = _made([alone], AwaitedCommands, AwaitedCommand)
            else:
                app = _made(_PARTS)
            app(prog_name="sockrec")
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except (SockrecError, OSError, MemoryError) as error:
        tell(f"sockrec: {_said(error)}")
        for note in getattr(error, "__notes__", ()):
            tell(note)
        if engine := sys.modules.get("analyzer.sql.engine"):
            engine.leave(1)  # at once, should a query run that nothing can stop
        sys.exit(1)


def _said(error: Exception) -> str:
    """Return what an error says; what the system says of a file goes by the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or "no memory was left"


def run() -> None:
    """Run the command in a process of its own, watched over, if it is to read a recording."""
    leave_out_pandas()
    command = _command()
    if command in READING:
        supervise()
    elif command in _GOING_ON:
        more = "run it again where there is more"
        supervise(less_memory=more, more_memory=more)
    main()


def _command() -> str:
    """Return the word that names the command."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")


if __name__ == "__main__":
    run()
