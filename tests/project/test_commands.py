"""What the command promises as a whole: light help, known errors in one line, documentation."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("record", "info", "reports", "report", "sql", "ss")
HEAVY = ("duckdb", "numpy", "pandas", "pyarrow", "pyroute2")

# Runs the command as the entry point does, then tells which modules it loaded.
LOADED = """
import sys
import sockrec
try:
    sockrec.main()
except SystemExit as leave:
    assert leave.code in (None, 0), leave.code
finally:
    print("loaded:", *sys.modules, file=sys.stderr)
"""

# Takes the place of a module that must not be imported, in any process of a recording.
INTRUDER = """
from pathlib import Path
(Path(__file__).parent / "imported").write_text(__name__)
raise ImportError(__name__ + " must not be imported")
"""


def run(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sockrec", *words],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def commands() -> list[str]:
    import typer.main

    import sockrec

    command = typer.main.get_command(sockrec.app)
    return sorted(getattr(command, "commands"))  # noqa: B009 - vendored click has no types


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_loads_no_heavy_module(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words, "--help"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: sockrec" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split("loaded:")[1].split()}
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize("words", ["-tan", "-s", "-Hxa state all src unix:/run/*"])
def test_ss_loads_no_query_engine_nor_what_other_commands_need(words: str) -> None:
    recording = ROOT / "samples" / "healthy" / "recording"
    script = f"from recorder.store.imports import leave_out_pandas\nleave_out_pandas()\n{LOADED}"
    done = subprocess.run(
        [sys.executable, "-c", script, "ss", str(recording), *words.split()],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split("loaded:")[1].split())
    assert "pyarrow" in loaded
    others = {"duckdb", "pandas", "pydantic", "rich", "analyzer.cli", "recorder.cli"}
    assert loaded & others == set()


def test_every_command_that_opens_a_recording_is_watched_over() -> None:
    import typer.main

    import sockrec
    from analyzer.supervisor import READING

    parts = [part for part in sockrec._PARTS if part.startswith("analyzer.")]
    known = typer.main.get_command(sockrec._made(parts)).commands  # type: ignore[attr-defined]
    opening = {
        name
        for name, command in known.items()
        if any("RECORDING" in str(parameter.metavar) for parameter in command.params)
    }
    assert opening == READING


def test_a_command_that_is_built_alone_has_the_help_it_has_among_others() -> None:
    import typer.main

    import sockrec

    def command(app: object) -> Any:
        return typer.main.get_command(app).commands["ss"]  # type: ignore[arg-type, attr-defined]

    alone = command(sockrec._made(["analyzer.cli_ss"], sockrec.AwaitedCommands))
    with command(sockrec.app).make_context("ss", ["x"]) as ctx:
        assert alone.get_help(ctx) == command(sockrec.app).get_help(ctx)


def test_recording_imports_no_duckdb_pandas_or_pyroute2_in_any_of_its_processes(
    tmp_path: Path,
) -> None:
    intruders = tmp_path / "intruders"
    intruders.mkdir()
    for name in ("duckdb", "pandas", "pyroute2"):
        (intruders / f"{name}.py").write_text(INTRUDER)
    done = run(
        *("record", "-n", "2", "-i", "200ms", "--no-network"),
        *("-o", str(tmp_path / "recording")),
        PYTHONPATH=f"{intruders}:{ROOT}",
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "recording" / "sockets").glob("*.parquet"))
    assert not (intruders / "imported").exists()


def test_every_command_of_the_first_slice_exists() -> None:
    assert set(COMMANDS) <= set(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: sockrec {name}")


@pytest.mark.parametrize("width", [60, 110])
@pytest.mark.parametrize(
    "name",
    [
        *("record", "recover", "info", "verify", "summary", "report", "sql", "ss"),
        *("bundle", "cut", "compact", "merge", "export", "unredact"),
    ],
)
def test_help_has_examples_the_width_of_the_terminal_and_no_types_of_python(
    name: str, width: int
) -> None:
    done = run(name, "-h", COLUMNS=str(width))
    assert done.returncode == 0
    assert f"  Examples:\n    sockrec {name}" in done.stdout
    assert not re.search(r"<\w+[ >\[]|list\[|\[required\]", done.stdout)
    said, _, examples = done.stdout.partition("Examples:")
    assert width - 25 < max(map(len, said.splitlines())) < width
    for line in examples.splitlines():
        assert not line.startswith("    sockrec") or line.startswith(f"    sockrec {name}")


def test_a_shell_is_told_commands_reports_and_formats() -> None:
    for words, wanted in [("su", "summary"), ("report short", "short_lived")]:
        done = run(
            _SOCKREC_COMPLETE="complete_bash",
            COMP_WORDS=f"sockrec {words}",
            COMP_CWORD=str(len(words.split())),
        )
        assert wanted in done.stdout.split(), done.stderr


def test_every_command_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in commands() if f"sockrec {name}" not in readme] == []


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"sockrec {version('sockrec')}\n"


def test_a_known_error_is_one_line_and_status_1() -> None:
    done = run("info", "/nonexistent/recording")
    assert done.returncode == 1
    assert done.stderr.startswith("sockrec: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_error_lets_no_terminal_escape_through(tmp_path: Path) -> None:
    done = run("info", str(tmp_path / "\x1b[2Jevil\nsecond line"))
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("nonsense", "no such command 'nonsense': 'sockrec -h' shows how to use it"),
        ("verfy", "no such command 'verfy': did you mean 'verify'?"),
        ("report", "missing argument 'NAME': 'sockrec report -h' shows how to use it"),
        ("cut x", "missing option '--output' / '-o': 'sockrec cut -h' shows how to use it"),
        ("report --wher", "no such option: --wher: did you mean --where?"),
        (
            "import ss --nosuch",
            "no such option: --nosuch: 'sockrec import ss -h' shows how to use it",
        ),
        ("ss x --at", "option '--at' requires an argument: 'sockrec ss -h' shows how to use it"),
        ("ss x -K", "--kill: a recording closes no sockets"),
        ("record -i soon", "--interval: 'soon' is not a duration; write 500ms, 1s, 5m or 1m30s"),
        ("summary --fail-on all", "--fail-on: 'all' is not one of 'warning', 'critical'"),
        ("report chrun", "NAME: there is no report 'chrun': did you mean churn?"),
        ("ss", "RECORDING: name one, or say --live"),
        ("--bogus", "no such option: --bogus: 'sockrec -h' shows how to use it"),
        ("record --exec true", "--exec: is of incidents: say by --on what one is"),
        ("service -- --bogus", "no such option: --bogus: 'sockrec record -h' shows how to use it"),
        ("service -- -i 0s", "--interval: '0s' must be more than nothing and less than 30 years"),
        ("\x1b[2J", "no such command '\\x1b[2J': 'sockrec -h' shows how to use it"),
    ],
)
def test_a_wrong_use_is_one_line_and_status_2(words: str, line: str, tmp_path: Path) -> None:
    done = run(*words.split(), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"sockrec: {line}\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_filter_is_shown_below_its_line() -> None:
    done = run("ss", "samples/healthy/recording", "-t", "sport = = 3")
    assert done.returncode == 2
    assert done.stderr == (
        "sockrec: FILTER: '=' stands where a value should\n  sport = = 3\n          ^\n"
    )


def test_a_closed_pipe_is_no_error_message() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "sockrec", "reports"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.stderr == ""
