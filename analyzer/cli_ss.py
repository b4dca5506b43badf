"""The command ss: the options of ss, in the order they are given, and those of a recording."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyzer.options import From, Timeout, To, Zone, duration, zone_of
from analyzer.screen.cells import printable

if TYPE_CHECKING:
    from analyzer.ss.selection import Selection
    from analyzer.ss.show import Asked

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_NOT_OFFERED = {
    "kill": "a recording closes no sockets",
    "diag": "use 'sockrec record', of which every table can be read",
    "context": "SELinux contexts are not recorded",
    "contexts": "SELinux contexts are not recorded",
}


def _in_order(ctx: typer.Context, param: Any, value: Any) -> Any:
    """Note an option where it stands, among those whose order tells."""
    if value:
        ctx.meta.setdefault("sockrec.ss", []).append((param.name, value))
    return value


def _refused(ctx: typer.Context, param: Any, value: Any) -> Any:
    if value:
        raise typer.BadParameter(_NOT_OFFERED[param.name])
    return value


def _flag(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, callback=_in_order)


def _hidden(*names: str) -> Any:
    return typer.Option(*names, hidden=True, callback=_refused)


Flag = bool


@app.command(
    short_help="What ss would have shown, at any moment of a recording.",
    epilog="""\b
Examples:
  sockrec ss incident -tlnp
  sockrec ss incident -tan --at 15:04:05 state established '( dport = :443 or sport = :443 )'
  sockrec ss incident -tin --every 10s --from -1m dst 10.0.0.0/8
  sockrec ss incident -s --at first
  sockrec ss --live -tunap
""",
)
def ss(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECORDING [FILTER]",
            help="A recording, none with --live; and a filter as ss has it: states, then "
            "conditions. See docs/ss.md.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT",
            help="When: a time as --from has it, first, last or sample:N; the default is last.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="DURATION",
            parser=duration,
            help="Many moments, at that distance, from --from to --to.",
            show_default=False,
        ),
    ] = None,
    start: From = None,
    end: To = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the kernel now, without a recording.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all columns as JSON.")] = False,
    tcp: Annotated[Flag, _flag("-t", "--tcp", help="TCP sockets.")] = False,
    udp: Annotated[Flag, _flag("-u", "--udp", help="UDP sockets.")] = False,
    raw: Annotated[Flag, _flag("-w", "--raw", help="Raw sockets.")] = False,
    unix: Annotated[Flag, _flag("-x", "--unix", help="Unix sockets.")] = False,
    packet: Annotated[Flag, _flag("-0", "--packet", help="Packet sockets.")] = False,
    sctp: Annotated[Flag, _flag("-S", "--sctp", help="SCTP sockets.")] = False,
    mptcp: Annotated[Flag, _flag("-M", "--mptcp", help="MPTCP sockets.")] = False,
    dccp: Annotated[Flag, _flag("-d", "--dccp", help="DCCP sockets.")] = False,
    vsock: Annotated[Flag, _flag("--vsock", help="Sockets of virtual machines.")] = False,
    tipc: Annotated[Flag, _flag("--tipc", help="TIPC sockets.")] = False,
    xdp: Annotated[Flag, _flag("--xdp", help="XDP sockets.")] = False,
    ipv4: Annotated[Flag, _flag("-4", "--ipv4", help="IPv4 only.")] = False,
    ipv6: Annotated[Flag, _flag("-6", "--ipv6", help="IPv6 only.")] = False,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "-f",
            "--family",
            metavar="FAMILY",
            callback=_in_order,
            help="A family: inet, inet6, unix, link, netlink, vsock, tipc or xdp.",
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            "-A",
            "--query",
            "--socket",
            metavar="TABLES",
            callback=_in_order,
            help="Tables by name, comma separated; !name leaves one out.",
        ),
    ] = None,
    all_: Annotated[Flag, _flag("-a", "--all", help="Listening sockets too.")] = False,
    listening: Annotated[Flag, _flag("-l", "--listening", help="Listening sockets only.")] = False,
    bound: Annotated[
        Flag,
        _flag("-B", "--bound-inactive", help="TCP sockets that are bound and nothing more."),
    ] = False,
    numeric: Annotated[
        bool, typer.Option("-n", "--numeric", help="Ports and rates as numbers.")
    ] = False,
    resolve: Annotated[
        bool, typer.Option("-r", "--resolve", help="Addresses as names, looked up now.")
    ] = False,
    processes: Annotated[
        bool, typer.Option("-p", "--processes", help="The process that holds a socket.")
    ] = False,
    with_threads: Annotated[
        bool, typer.Option("-T", "--threads", help="As -p: threads are not recorded.")
    ] = False,
    timers: Annotated[bool, typer.Option("-o", "--options", help="Timers.")] = False,
    extended: Annotated[
        bool, typer.Option("-e", "--extended", help="User, inode, cookie, mark and cgroup.")
    ] = False,
    memory: Annotated[bool, typer.Option("-m", "--memory", help="Memory.")] = False,
    info: Annotated[bool, typer.Option("-i", "--info", help="What TCP knows.")] = False,
    tos: Annotated[bool, typer.Option("--tos", help="Type of service and priority.")] = False,
    cgroup: Annotated[bool, typer.Option("--cgroup", help="Control groups.")] = False,
    sockopt: Annotated[bool, typer.Option("--inet-sockopt", help="Socket options.")] = False,
    tipcinfo: Annotated[bool, typer.Option("--tipcinfo", help="What TIPC knows.")] = False,
    bpf: Annotated[bool, typer.Option("-b", "--bpf", help="Filters of packet sockets.")] = False,
    summary: Annotated[bool, typer.Option("-s", "--summary", help="How many there are.")] = False,
    events: Annotated[
        bool,
        typer.Option("-E", "--events", help="What was closed, from --from to --to."),
    ] = False,
    no_header: Annotated[bool, typer.Option("-H", "--no-header", help="No header.")] = False,
    oneline: Annotated[
        bool, typer.Option("-O", "--oneline", help="One line for each socket.")
    ] = False,
    no_queues: Annotated[
        bool, typer.Option("-Q", "--no-queues", help="No columns of queues.")
    ] = False,
    net: Annotated[
        str | None,
        typer.Option(
            "-N",
            "--net",
            metavar="NETNS",
            help="Network namespace: a name, a number, or all with a column. The default is that "
            "in which the recorder was started.",
        ),
    ] = None,
    filter_file: Annotated[
        Path | None,
        typer.Option(
            "-F", "--filter", metavar="FILE", help="The rest of the filter; - is standard input."
        ),
    ] = None,
    kill: Annotated[bool, _hidden("-K", "--kill")] = False,
    diag: Annotated[str | None, _hidden("-D", "--diag")] = None,
    context: Annotated[bool, _hidden("-Z", "--context")] = False,
    contexts: Annotated[bool, _hidden("-z", "--contexts")] = False,
    zone: Zone = "UTC",
    timeout: Timeout = None,
) -> None:
    """Print what ss 6.1 would have printed, of sockets at a moment of a recording.

    Options and filters are those of ss; rows are ordered by table, family, port and address. The
    moment shown, and what could not be seen, is told on standard error.
    """
    from analyzer.guard import guarded, note, telling
    from analyzer.reading.recording import open_recordings
    from analyzer.reading.sources import Sources
    from analyzer.screen.output import destination
    from analyzer.ss.rows import Rows
    from analyzer.ss.show import Recorded, Show

    rest = list(words or [])
    if not live and not rest:
        raise typer.BadParameter("name one, or say --live", param_hint="RECORDING")
    path = None if live else Path(rest.pop(0))
    with _wrong_options():
        asked = read_options(ctx, rest)
        with (
            _recording(path, net) as found,
            guarded(),
            telling(Sources(open_recordings(found))) as sources,
            Rows(sources, timeout) as rows,
            destination(None) as out,
        ):
            if sources.several:
                raise typer.BadParameter("name one recording", param_hint="RECORDING")
            Show(Recorded(rows, asked.zone), asked, out, note, _width(out)).run()


def read_options(ctx: Any, words: Sequence[str]) -> Asked:
    """Return what the options and the words of the filter ask for.

    Raises BadParameter, SelectionError and what reading a file raises.
    """
    from zoneinfo import ZoneInfo

    from analyzer.ss.show import Asked
    from analyzer.ss.words import Options

    given = ctx.params
    names = (
        *("numeric", "resolve", "timers", "extended", "memory", "info", "tos", "cgroup", "sockopt"),
        *("tipcinfo", "bpf", "oneline"),
    )
    return Asked(
        selection=_selection(ctx.meta.get("sockrec.ss", ())),
        filter=" ".join([*words, *_read_filter(given["filter_file"])]),
        options=Options(
            processes=given["processes"] or given["with_threads"],
            **{name: given[name] for name in names},
        ),
        at=given["at"],
        every=given["every"],
        start=given["start"],
        end=given["end"],
        zone=ZoneInfo(zone_of(given["zone"])),
        netns=given["net"],
        header=not given["no_header"],
        queues=not given["no_queues"],
        threads=given["with_threads"],
        summary=given["summary"],
        events=given["events"],
        json=given["json"],
    )


def _selection(given: Sequence[tuple[str, Any]]) -> Selection:
    """Return what options choose, taken in their order."""
    from analyzer.ss.selection import ALL, FAMILY_NAMES, LISTENING, Selection, SelectionError

    chosen = Selection()
    for name, value in given:
        match name:
            case "tcp" | "udp" | "raw" | "sctp" | "mptcp" | "dccp":
                chosen.table(name)
            case "unix" | "packet" | "vsock" | "tipc" | "xdp":
                chosen.family(name)
            case "ipv4" | "ipv6":
                chosen.family("inet" if name == "ipv4" else "inet6")
            case "family":
                for word in value:
                    if word not in FAMILY_NAMES:
                        known = ", ".join(FAMILY_NAMES)
                        raise SelectionError(
                            f"{word!r} is no family; there are {known}", "--family"
                        )
                    chosen.family(FAMILY_NAMES[word])
            case "query":
                for word in value:
                    chosen.query(word)
            case "all_":
                chosen.want(ALL)
            case "listening":
                chosen.want(LISTENING)
            case "bound":
                chosen.want(frozenset({"UNCONN"}))
                chosen.bound_only = True
    return chosen


def _read_filter(file: Path | None) -> list[str]:
    from recorder.ssfilter import read_file

    if file is None:
        return []
    if str(file) == "-":
        return [read_file(sys.stdin.read())]
    return [read_file(file.read_text(errors="surrogateescape"))]


@contextmanager
def _recording(path: Path | None, netns: str | None) -> Iterator[Path]:
    """Give the recording, or one that is made now of a single sample, in the namespaces meant."""
    if path is not None:
        yield path
        return
    import subprocess
    import tempfile

    from analyzer.guard import note

    with tempfile.TemporaryDirectory(prefix="sockrec-live-") as folder:
        made = Path(folder) / "recording"
        command = [sys.executable, "-m", "sockrec", "record", "-q", "-n", "1", "--no-closes"]
        # A number is known when all have been looked at.
        meant = "current" if netns is None else "all" if netns.isdecimal() else netns
        command += ["--netns", meant, "-o", str(made)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, errors="backslashreplace"
        )
        told = [line for line in done.stderr.splitlines() if line.strip()]
        if done.returncode:
            said = told[-1] if told else f"the recorder ended with {done.returncode}"
            note(re.sub(r"^sockrec: (--\w+: )?", "", said))
            raise typer.Exit(done.returncode)
        for line in told:
            typer.echo(printable(line), err=True)
        yield made


@contextmanager
def _wrong_options() -> Iterator[None]:
    """Let what is wrong about an option or the filter end as a wrong use."""
    from analyzer.ss.selection import SelectionError
    from recorder.format.times import TimeError
    from recorder.ssfilter import FilterError

    try:
        yield
    except FilterError as error:
        raise typer.BadParameter(_lines(str(error)), param_hint="FILTER") from error
    except (TimeError, SelectionError) as error:
        raise typer.BadParameter(printable(str(error)), param_hint=error.option) from error


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _width(out: Any) -> int | None:
    """Return the width of the terminal, None where the output is none."""
    if out is not sys.stdout or not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None
