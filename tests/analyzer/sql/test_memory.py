"""No command takes more memory than it was given, whatever is read and whatever is asked."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analyzer.sql.memory import BESIDE, SizeError, bounded, default_size, parse_size
from tests.analyzer.support.hostile import LARGE
from tests.analyzer.support.recordings import small

ROOT = Path(__file__).resolve().parents[3]
MEMORY = 100_000_000
AT_REST = 200_000_000
"""What Python and the libraries are themselves."""

# A process of its own whose children are these alone: what they took at most is known of all.
MEASURED = """
import resource, subprocess, sys
status = subprocess.run([sys.executable, "-m", "sockrec", *sys.argv[1:]],
                        stdout=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
"""


class Took:
    """How a command ended, what it said, and the memory that it took at most."""

    def __init__(self, *words: str | Path) -> None:
        limits = ["--memory", str(MEMORY // 1000) + "KB", "--threads", "2", "--timeout", "110"]
        limits = limits if words[0] != "info" else []
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, words), *limits],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        status, peak = done.stdout.split()
        self.status, self.peak, self.err = int(status), int(peak), done.stderr


@pytest.fixture(scope="module", params=LARGE)
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = LARGE[request.param]
    return make(tmp_path_factory.mktemp("hostile") / "r")


@pytest.mark.parametrize(
    "words",
    [
        ("summary",),
        ("report", "process_sockets"),
        ("sql", "SELECT * FROM sockets ORDER BY comm, cookie"),
        ("sql", "SELECT upper(comm) FROM sockets"),
    ],
    ids=" ".join,
)
def test_a_hostile_recording_takes_no_more_than_is_allowed(
    words: tuple[str, ...], hostile: Path
) -> None:
    command, *rest = words
    before, after = ([], rest) if command == "sql" else (rest, [])
    took = Took(command, *before, hostile, *after)
    assert took.peak < MEMORY + BESIDE + AT_REST, took.err
    assert "Traceback" not in took.err
    if took.status:
        assert took.status == 1
        assert took.err.startswith("sockrec: ")
        assert took.err.count("\n") == 1


@pytest.mark.parametrize(
    "query",
    [
        "SELECT length(repeat('a', 1000000000))",
        "SELECT list_sort(range(200000000))[1]",
        "SELECT list(i) FROM range(300000000) AS t(i)",
        "SELECT string_agg(repeat('a', 1000000), ',') FROM range(2000)",
        "SELECT repeat('a', 100000) FROM range(100000)",
        "SELECT histogram(i) FROM range(100000000) AS t(i)",
    ],
)
def test_a_query_that_wants_too_much_ends_in_one_line(query: str, tmp_path: Path) -> None:
    small(tmp_path / "r")
    took = Took("sql", tmp_path / "r", query)
    assert took.peak < MEMORY + BESIDE + AT_REST
    assert (took.status, took.err.count("\n")) == (1, 1)
    assert took.err.startswith("sockrec: out of memory: the query needs more than ")


def test_the_bound_holds_within_the_block_only() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded(MEMORY, 1), pytest.raises(MemoryError):
        bytearray(2 * (MEMORY + BESIDE))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(bytearray(2 * (MEMORY + BESIDE)))


def test_sizes_are_read_as_duckdb_reads_them() -> None:
    assert parse_size("500MB") == 500_000_000
    assert parse_size("1.5 gib") == 3 << 29
    for text in ("", "lots", "-1GB", "1GB'; x", "5", "1e3MB"):
        with pytest.raises(SizeError, match="no size of memory"):
            parse_size(text)


def test_the_default_is_half_of_a_laptop() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < default_size() <= min(total // 2, 8 << 30)
