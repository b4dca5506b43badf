"""What is said of a wrong query: what is wrong, what may be meant, and where."""

from pathlib import Path

import pytest

import analyzer
from analyzer.sql.complaint import complaint
from analyzer.sql.work import QueryError
from tests.analyzer.support.recordings import small


@pytest.mark.parametrize(
    ("query", "says", "marked"),
    [
        ("SELECT * FROM sokets", "there is no table sokets: did you mean sockets?", "sokets"),
        ("SELECT * FROM connectoins", "did you mean connections?", "connectoins"),
        ("SELECT 1 FROM pg_tbles", "there is no table pg_tbles: there are sockets, ", "pg_tbles"),
        ("SELECT stat FROM sockets", "no column stat: did you mean state?", "stat"),
        ("SELECT s.stat FROM sockets s", "s has no column stat", "s.stat"),
        ("SELECT 1 FROM sockets WHERE state = ESTAB", "in single quotes: 'ESTAB'", "ESTAB"),
        ('SELECT 1 FROM sockets WHERE state = "ESTAB"', "in single quotes: 'ESTAB'", "ESTAB"),
        ("SELECT 1 FROM sockets WHERE comm IN (nginx)", "in single quotes: 'nginx'", "nginx"),
        ("SELECT 'stat', stat FROM sockets", "no column stat", "stat FROM"),
        ("SELECT flor(1.5)", "there is no function flor: did you mean floor?", "flor"),
        ("SELECT 1 FROM read_csvv('x')", "there is no function read_csvv", "read_csvv"),
        ("SELEC 1", 'syntax error at or near "SELEC"', "SELEC"),
        ("SELECT 'a' FROM sockets WHERE comm = 'b", "unterminated", "'b"),
    ],
)
def test_a_wrong_query_is_told_in_words_and_marked(
    tmp_path: Path, query: str, says: str, marked: str
) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened, pytest.raises(QueryError) as caught:
        opened.sql(query).table()
    said = str(caught.value)
    assert says in said
    assert "\n" not in said
    for hidden in ("pg_tables", "raw.", "read_csv?", "Candidate", "Error: "):
        assert hidden not in said
    line, mark = caught.value.__notes__
    assert line.strip() == query
    assert line.index(marked) == mark.index("^")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT count(*) FROM sockets GROUP", "syntax error at "),
        ("SELECT CAST('a' AS INTEGER)", "could not convert string 'a' to INT32"),
    ],
)
def test_an_error_does_not_begin_with_the_kind_that_duckdb_gives_it(
    tmp_path: Path, query: str, says: str
) -> None:
    small(tmp_path / "r")
    with analyzer.open(tmp_path / "r") as opened, pytest.raises(QueryError) as caught:
        opened.sql(query).table()
    assert says in str(caught.value)
    assert "Error: " not in str(caught.value)


def test_of_several_lines_the_one_that_is_wrong_is_shown() -> None:
    said = 'Binder Error: Referenced column "x" not found in FROM clause!'
    assert complaint(said, "SELECT 1,\n  x -- x\nFROM y").place == ("    x -- x", "    ^")
    assert complaint(said, "SELECT 'x' -- x").place == ()


def test_a_long_line_is_cut_and_nothing_in_it_harms_a_terminal() -> None:
    said = 'Binder Error: Referenced column "x" not found in FROM clause!'
    line, mark = complaint(said, f"SELECT {'1, ' * 100}\x1b[2J, x, {'2, ' * 100}").place
    assert line.isprintable()
    assert len(line) < 140
    assert line[mark.index("^")] == "x"
    wide, mark = complaint(said, "SELECT '大', x").place
    assert mark.index("^") == wide.index("x") + 1  # one letter that is two columns wide


def test_nothing_is_shown_of_statements_that_the_user_did_not_write() -> None:
    said = "Invalid Input Error: no\n\nLINE 1: ... AS x FROM read_parquet(['/tmp...\n           ^"
    assert complaint(said, "SELECT 1").place == ()
    assert complaint(said, "").place == ()
    long = "Parser Error: no\n\nLINE 1: ...2, 3 FRM x...\n                ^"
    line, mark = complaint(long, "SELECT 1, 2, 3 FRM x, y").place
    assert line[mark.index("^") :].startswith("FRM")
