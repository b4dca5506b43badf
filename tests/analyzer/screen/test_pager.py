"""Long answers on a terminal go through $PAGER, short ones do not."""

from pathlib import Path

import pytest

from analyzer.screen.pager import pager
from analyzer.screen.prose import two_columns
from tests.analyzer.support.recordings import small
from tests.analyzer.support.terminals import Terminal

LONG = "SELECT range AS n FROM range(90)"  # the terminal has 40 lines
SHORT = "SELECT range AS n FROM range(9)"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    small(tmp_path / "r")
    return tmp_path / "r"


def shown(pager: str, *words: str | Path) -> str:
    terminal = Terminal(*words, PAGER=pager)
    try:
        assert terminal.wait() == 0
        return terminal.shown.replace("\r\n", "\n")
    finally:
        terminal.close()


def test_what_is_longer_than_the_terminal_goes_through_the_pager(recording: Path) -> None:
    told = shown("sed s/^/paged:/", "sql", recording, LONG)
    assert told.count("paged:") == 91
    assert "paged:" not in shown("sed s/^/paged:/", "sql", recording, SHORT)
    assert "\n89\n" in shown("cat", "sql", recording, LONG).replace(" ", "")
    assert shown("echo LESS=$LESS; cat >/dev/null", "sql", recording, LONG) == "LESS=FRX\n"


def test_commands_that_tell_of_reports_go_through_it_too() -> None:
    assert "paged:churn: " in shown("sed s/^/paged:/", "reports", "churn").replace("\x1b[m", "")


def test_a_reader_who_leaves_early_ends_the_query_without_an_error(recording: Path) -> None:
    endless = "SELECT range AS n FROM range(1000000000000)"
    told = shown("head -3", "sql", recording, endless, "--format", "csv")
    assert told == "n\n0\n1\n"


def test_ctrl_c_waits_for_the_pager(recording: Path) -> None:
    pager = """sh -c 'trap "" INT; echo begun; cat >/dev/null; echo left'"""
    endless = "SELECT range AS n FROM range(1000000000000)"
    terminal = Terminal("sql", recording, endless, "--format", "csv", PAGER=pager)
    try:
        terminal.wait_for("begun\r\n")
        terminal.type("\x03")
        terminal.wait_for("left")
        assert terminal.wait() == 130
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("environ", "command"),
    [
        ({"PAGER": "sh -c cat", "TERM": "xterm"}, "sh -c cat"),
        ({"PAGER": "", "TERM": "xterm"}, None),
        ({"PAGER": "cat", "TERM": "xterm"}, None),
        ({"PAGER": "sh", "TERM": "dumb"}, None),
        ({"PAGER": "sh"}, None),
        ({"PAGER": "no-such-pager", "TERM": "xterm"}, None),
        ({"PAGER": "LESS=R sh", "TERM": "xterm"}, "LESS=R sh"),
    ],
)
def test_which_pager_is_taken(environ: dict[str, str], command: str | None) -> None:
    assert pager(environ) == command


def test_no_word_is_cut_to_fit_a_column() -> None:
    pairs = [("name", "a sentence of words that is longer than the terminal"), ("b", "")]
    lines = list(two_columns(pairs, 40, "  "))
    assert lines == [
        "  name  a sentence of words that is",
        "        longer than the terminal",
        "  b",
    ]
    assert list(two_columns([("n" * 30, "one two")], 40)) == ["n" * 30, "    one two"]
    assert list(two_columns(pairs[:1], None)) == [f"name  {pairs[0][1]}"]
