"""Prints docs/sockrec.1, the man page, from the help of the commands."""

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import typer

import sockrec

HEAD = """\
.\\" Written by `make docs` from the help of the commands: change that, not this.
.TH SOCKREC 1 "" "sockrec {version}" "User Commands"
.SH NAME
sockrec \\- {title}
.SH SYNOPSIS
.B sockrec
.I COMMAND
[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...
"""

FOOT = """\
.SH ENVIRONMENT
.TP
.B PAGER
Shows what is longer than the terminal; less by default, with LESS=FRX unless LESS is set. Empty, or
cat, is none.
.TP
.B TZ
The zone that \\-\\-tz local means.
.TP
.B TMPDIR
Where a query keeps temporary files.
.SH SEE ALSO
.BR ss (8),
.BR sock_diag (7),
.BR tcp (7)
"""


def roff(text: str) -> str:
    """Return text in which nothing is markup of roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    ascii_only = re.sub(r"[^\0-\x7f]", lambda match: f"\\[u{ord(match[0]):04X}]", escaped)
    return re.sub(r"^([.'])", r"\\&\1", ascii_only, flags=re.MULTILINE)


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; what follows a \\b keeps its lines."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", roff(paragraph.removeprefix("\b\n")), ".fi")
        else:
            yield roff(" ".join(paragraph.split()))


def parameters(command: Any, context: typer.Context) -> Iterator[str]:
    """Yield a paragraph for each argument and option."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        name, text = record
        if parameter.param_type_name == "argument":
            name, text = parameter.metavar, text.removesuffix("[required]").rstrip()
        yield ".TP"
        yield f"\\fB{roff(name)}\\fR"
        yield roff(" ".join(text.split()))


def commands(group: Any, parent: typer.Context, before: str = "") -> Iterator[Any]:
    """Yield (name, command, context) of each command, those of groups by both names."""
    for name, command in group.commands.items():
        context = command.make_context(name, [], parent=parent, resilient_parsing=True)
        if hasattr(command, "commands"):
            yield from commands(command, context, f"{before}{name} ")
        else:
            yield before + name, command, context


def page() -> Iterator[str]:
    """Yield the parts of the page."""
    group: Any = typer.main.get_command(sockrec.app)
    root = group.make_context("sockrec", ["--help"], resilient_parsing=True)
    title = group.help.removesuffix(".")
    yield HEAD.format(version=version("sockrec"), title=title[0].lower() + title[1:]).rstrip()
    yield ".SH OPTIONS"
    yield from parameters(group, root)
    yield ".SH COMMANDS"
    for name, command, context in commands(group, root):
        usage = " ".join(command.collect_usage_pieces(context))
        yield f".SS sockrec {roff(name)} {roff(usage)}"
        yield from prose(command.help)
        yield from parameters(command, context)
        if command.epilog:
            yield ".PP"
            yield from prose(command.epilog)
    yield FOOT.rstrip()


def main() -> None:
    """Print the page."""
    print("\n".join(page()))


if __name__ == "__main__":
    main()
