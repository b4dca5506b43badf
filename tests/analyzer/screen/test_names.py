"""Names for addresses: whole addresses only, of either family, in cells and in sentences."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyzer.screen.names import Names, NamesError, read_names
from sockrec import app

SAMPLE = Path(__file__).parents[3] / "samples/stalled_sender/recording"

FILE = """address,name
10.0.0.5,db1
fd00::0:1,"v6, quoted"
::ffff:10.0.0.6,mapped
127.0.0.1,here
10.0.0.5,second
"""


@pytest.fixture
def names(tmp_path: Path) -> Names:
    (tmp_path / "names.csv").write_text(FILE)
    return read_names(tmp_path / "names.csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.0.0.5", "db1"),
        ("10.0.0.5:5432", "db1:5432"),
        ("to 10.0.0.5:5432, and 10.0.0.6 waits", "to db1:5432, and mapped waits"),
        ("from 10.0.0.5 to 10.0.0.5.", "from db1 to db1."),
        ("::ffff:10.0.0.5:80", "db1:80"),
        ("[fd00::1]:80", "v6, quoted:80"),
        ("fd00::1", "v6, quoted"),
        ("[fd00::1]", "v6, quoted"),
        ("10.0.0.7:5432", "10.0.0.7:5432"),
        ("10.0.0.55", "10.0.0.55"),
        ("110.0.0.5", "110.0.0.5"),
        ("10.0.0.5/32", "10.0.0.5/32"),
        ("10.0.0.5.1", "10.0.0.5.1"),
        ("fd00::1/128", "fd00::1/128"),
        ("15:04:05", "15:04:05"),
        ("v10.0.0.5", "v10.0.0.5"),
        ("999.0.0.5", "999.0.0.5"),
        ("[]:80 :: 1::2::3", "[]:80 :: 1::2::3"),
        ("", ""),
    ],
)
def test_whole_addresses_have_their_names(text: str, told: str, names: Names) -> None:
    assert names.put(text) == told


def test_a_hosts_file_names_by_the_first_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# local\n127.0.0.1\tlocalhost me # here\n\n::1 six\n")
    names = read_names(tmp_path / "hosts")
    assert names.put("127.0.0.1:80 [::1]:80") == "localhost:80 six:80"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("10.0.0.5,a\nnowhere,b\n", "line 2: 'nowhere' is no address"),
        ("10.0.0.5\n", "line 1: 10.0.0.5 has no name"),
        ("10.0.0.5,\n", "line 1: 10.0.0.5 has no name"),
        ("\x00\xff\n", "line 1: "),
    ],
)
def test_a_line_that_is_none_is_told(content: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_text(content)
    with pytest.raises(NamesError, match=what):
        read_names(tmp_path / "names")


def test_reports_and_summary_show_names_and_files_of_numbers_do_not(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("198.51.100.20 collector\n")
    named = ["--names", str(tmp_path / "hosts")]

    def told(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, str(SAMPLE), *named], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    only = ("--only", "network_stall")
    assert "sends to collector:6514: " in told("summary", *only)
    assert "collector" in told("report", "peers")
    assert "collector" not in told("report", "peers", "--format", "csv")
    assert "198.51.100.20:6514" in told("summary", *only, "--format", "json")
