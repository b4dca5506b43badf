"""The command: joins the recorder's and the analyzer's, nothing else."""

import os
import sys
from typing import Annotated

import typer

import analyzer.cli
import recorder.cli
from analyzer.cli import READING
from analyzer.supervisor import supervise
from recorder.console import tell
from recorder.schema import SockrecError

app = typer.Typer(
    help="Record what the sockets of this host are doing, and ask afterwards with SQL.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(recorder.cli.app)
app.add_typer(analyzer.cli.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sockrec {version('sockrec')}")
        raise typer.Exit


@app.callback()
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
        tell(f"sockrec: {str(error) or 'no memory was left'}")
        if engine := sys.modules.get("analyzer.sql.engine"):
            engine.leave(1)  # at once, should a query run that nothing can stop
        sys.exit(1)


def run() -> None:
    """Run the command in a process of its own, watched over, if it is to read a recording."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), "") in READING:
        supervise()
    main()


if __name__ == "__main__":
    run()
