"""The catalogue: a report is its file, and a wrong header is named before anything runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analyzer
from analyzer import Analysis
from analyzer.sql.catalog import CatalogError, ParameterError, find_report, read_catalog
from analyzer.sql.header import parse_query
from tests.analyzer.support.recordings import small

HEADER = """\
-- title = "Things"
-- description = "What things there are."
-- [columns]
-- n = "How many."
"""
PARAM = '-- [params]\n-- k = { type = "BIGINT", default = 3, doc = "A number." }\n'
SQL = "SELECT 1 AS n ORDER BY n\n"


def test_every_report_ranks_its_columns() -> None:
    for report in read_catalog().values():
        assert len(report.ranks) >= 3 or len(report.ranks) == len(report.columns), report.name


def test_a_header_becomes_a_report() -> None:
    chart = '-- [chart]\n-- mark = "bar"\n'
    report = parse_query("things", HEADER + PARAM + chart + SQL)
    assert (report.name, report.title) == ("things", "Things")
    assert report.description == "What things there are."
    assert dict(report.columns) == {"n": "How many."}
    assert report.params[0].name == "k"
    assert report.values({}) == {"k": ("BIGINT", 3)}
    assert report.chart == {"mark": "bar"}
    assert report.sql == "SELECT 1 AS n ORDER BY n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT 1", "lacks a text 'title'|no \\[columns\\]"),
        (HEADER, "no SQL"),
        ("-- title = \n" + SQL, "not TOML"),
        (HEADER.replace("Things", "") + SQL, "lacks a text 'title'"),
        (HEADER.replace('"Things"', "3") + SQL, "lacks a text 'title'"),
        (HEADER.replace("description", "describtion") + SQL, "unknown words.*describtion"),
        ('-- ranks = ["nosuch"]\n' + HEADER + SQL, "'nosuch', which is none of its columns"),
        ("-- inline = 1\n" + HEADER + SQL, "'inline' is neither true nor false"),
        ("-- ranks = 3\n" + HEADER + SQL, "'ranks' is no list of names"),
        ('-- title = "a"\n-- description = "b"\n' + SQL, r"no \[columns\]"),
        (HEADER.replace("How many.", " ") + SQL, "lacks a text 'n'"),
        ("-- columns = 3\n" + HEADER.split("-- [")[0] + SQL, "'columns' in its header is not a"),
        (HEADER + PARAM.replace("BIGINT", "INT") + SQL, "type is none of"),
        (HEADER + PARAM.replace("default = 3", 'default = "3"') + SQL, "default is no BIGINT"),
        (HEADER + PARAM.replace("default = 3", "default = true") + SQL, "default is no BIGINT"),
        (HEADER + PARAM.replace(', doc = "A number."', "") + SQL, "wants type, default and doc"),
        (HEADER + PARAM.replace("k =", "from_us =") + SQL, "no name for a parameter"),
        (HEADER + PARAM.replace("k =", '"k; DROP" =') + SQL, "no name for a parameter"),
    ],
)
def test_a_wrong_header_is_named(text: str, said: str) -> None:
    with pytest.raises(CatalogError, match=said) as caught:
        parse_query("things", text)
    assert "things.sql" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "default", "text", "value"),
    [
        ("BIGINT", "3", "-7", -7),
        ("DOUBLE", "3", "2", 2.0),
        ("DOUBLE", "3.5", "1e3", 1000.0),
        ("VARCHAR", '"a"', "b'c", "b'c"),
        ("BOOLEAN", "false", "yes", True),
    ],
)
def test_a_value_is_parsed_by_its_type(
    kind: str, default: str, text: str, value: object, opened: Analysis
) -> None:
    header = HEADER + PARAM.replace("BIGINT", kind).replace("default = 3", f"default = {default}")
    report = parse_query("things", header + "SELECT k AS n FROM params\n")
    assert report.values({"k": text})["k"] == (kind, value)
    assert opened.report(report, k=text).table().to_pylist() == [{"n": value}]
    assert opened.report(report, k=value).table().to_pylist() == [{"n": value}]


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "99999999999999999999", "1; SELECT 2"])
def test_a_value_of_another_type_is_refused(text: str) -> None:
    report = parse_query("things", HEADER + PARAM + SQL)
    with pytest.raises(ParameterError, match="a BIGINT is wanted"):
        report.values({"k": text})


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    report = parse_query("things", HEADER + PARAM + SQL)
    with pytest.raises(ParameterError, match="no parameter 'q': it has k"):
        report.values({"q": "1"})
    with pytest.raises(ParameterError, match=r"'intervall': it has .*; did you mean interval\?"):
        find_report("states").values({"intervall": "1"})


CHOICE = """\
-- [params]
-- by = { type = "VARCHAR", default = "peer", choices = ["peer", "process"], doc = "A row." }
"""


def test_a_choice_is_one_of_its_words() -> None:
    report = parse_query("things", HEADER + CHOICE + SQL)
    assert report.params[0].choices == ("peer", "process")
    assert report.values({"by": "process"})["by"] == ("VARCHAR", "process")
    wrong = r"^by=proces: give one of peer, process; did you mean process\?$"
    with pytest.raises(ParameterError, match=wrong):
        report.values({"by": "proces"})
    with pytest.raises(ParameterError, match=r"^by=x: give one of peer, process$"):
        report.values({"by": "x"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"VARCHAR"', '"BIGINT"'),
        ('["peer", "process"]', '"peer"'),
        ('["peer", "process"]', "[1]"),
        ('["peer", "process"]', '["process"]'),
        ('["peer", "process"]', "[]"),
    ],
)
def test_choices_are_texts_and_hold_the_default(old: str, new: str) -> None:
    with pytest.raises(CatalogError, match="parameter 'by'"):
        parse_query("things", HEADER + CHOICE.replace(old, new) + SQL)


@pytest.mark.parametrize("word", ["sunshine", "x' OR 1", "PEER", ""])
def test_a_word_that_is_no_choice_is_refused(word: str) -> None:
    for report in read_catalog().values():
        for parameter in report.params:
            if parameter.choices:
                with pytest.raises(ParameterError, match=f"^{parameter.name}=.*: give one of "):
                    report.values({parameter.name: word})


@pytest.mark.parametrize("name", read_catalog())
def test_a_shipped_report_runs_with_each_of_its_choices(name: str, opened: Analysis) -> None:
    report = find_report(name)
    assert opened.report(name).table().column_names == list(report.columns)
    for parameter in report.params:
        assert bool(parameter.choices) == (parameter.type == "VARCHAR" and name != "counters")
        for choice in set(parameter.choices) - {parameter.default}:
            given: dict[str, Any] = {parameter.name: choice}
            table = opened.report(name, **given).table()
            assert table.column_names == list(report.columns)


def test_a_misspelt_report_is_answered_with_the_nearest() -> None:
    with pytest.raises(CatalogError, match="did you mean states"):
        find_report("state")
    with pytest.raises(CatalogError, match="sockrec reports"):
        find_report("../../etc/passwd")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analysis]:
    path = tmp_path_factory.mktemp("catalog") / "r"
    small(path)
    with analyzer.open(path) as opened:
        yield opened


@pytest.mark.parametrize("name", read_catalog())
def test_a_shipped_report_has_a_total_order(name: str) -> None:
    assert find_report(name).sql.rstrip().rpartition("\nORDER BY")[1]


@pytest.mark.parametrize("name", read_catalog())
def test_every_report_takes_top(name: str) -> None:
    (top,) = (parameter for parameter in find_report(name).params if parameter.name == "top")
    assert top.type == "BIGINT"


def test_a_report_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.sql"
    path.write_text(HEADER + PARAM + SQL)
    assert find_report(str(path)).title == "Things"
    path.write_text(SQL)
    with pytest.raises(CatalogError, match=rf"{path}: its header describes no"):
        find_report(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(CatalogError, match=f"{path}: not UTF-8"):
        find_report(str(path))
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(CatalogError, match="are no report"):
        find_report(str(path))
    with pytest.raises(CatalogError, match="No such file"):
        find_report(str(tmp_path / "absent.sql"))


@pytest.mark.parametrize(
    ("needs", "said"),
    [('["closes", "tcp"]', None), ('["closed"]', "no list of"), ('"closes"', "no list of")],
)
def test_needs_are_words_that_are_known(needs: str, said: str | None) -> None:
    text = f"-- needs = {needs}\n{HEADER}{SQL}"
    if said is None:
        assert parse_query("things", text).needs == ("closes", "tcp")
    else:
        with pytest.raises(CatalogError, match=said):
            parse_query("things", text)


def test_the_columns_of_a_finding_are_not_described() -> None:
    with pytest.raises(CatalogError, match=r"may not describe \[columns\]"):
        parse_query("things", HEADER + SQL, columns=["n"])
