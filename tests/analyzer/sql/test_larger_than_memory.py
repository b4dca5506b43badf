"""A recording four times larger than the memory limit still answers, and leaves nothing behind."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.workloads.large import LISTENERS, Written, write_large

ROOT = Path(__file__).parents[3]

LIMIT_MIB = 128
"""With half of it DuckDB 1.5 has not enough for the view connections, 2.0 has."""
LIMIT = ["--memory", f"{LIMIT_MIB}MiB", "--threads", "2"]
SOCKETS = 30_000

BEYOND_MIB = 2 * LIMIT_MIB
"""What a process may take beside what it takes to answer SELECT 1.

The limit holds for what DuckDB counts: hash tables, sorts, cached pages. It does not count the
Arrow batches on their way out, decompressed pages, the state of aggregates, nor what its allocator
keeps; as much again is allowed for these. All rows together, unpacked, take seven times the limit.
"""


@dataclass(frozen=True)
class Watched:
    """What a command printed, and what it took."""

    stdout: str
    peak_mib: float
    spilled: int
    modes: frozenset[int]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    directory = tmp_path_factory.mktemp("large") / "recording"
    yield write_large(directory, 4 * LIMIT_MIB << 20, SOCKETS)
    shutil.rmtree(directory)  # half a gigabyte is too much to be kept for the next runs


@pytest.fixture(scope="module")
def at_rest_mib(written: Written, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Memory that opening the recording and asking nothing of it takes."""
    command = ["sql", str(written.directory), "SELECT 1 AS one", *LIMIT]
    return watch(tmp_path_factory.mktemp("rest"), *command).peak_mib


def watch(place: Path, *words: str) -> Watched:
    """Run sockrec in an empty directory with another for temporary files; both stay empty."""
    here, temporary = place / "here", place / "temporary"
    here.mkdir()
    temporary.mkdir()
    peak, spilled, modes = 0, 0, set()
    out = place / "stdout"  # not a pipe, which nobody would empty
    with (
        out.open("wb") as stdout,
        subprocess.Popen(
            [sys.executable, "-m", "sockrec", *words],
            cwd=here,
            env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        while child.poll() is None:
            peak = max(peak, _peak_kib(child.pid))
            spilled = max(spilled, _size(temporary))
            modes |= {stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(temporary)}
            time.sleep(0.01)
    assert child.returncode == 0, out.read_text()
    assert list(temporary.iterdir()) == []
    assert list(here.iterdir()) == []
    return Watched(out.read_text(), peak / 1024, spilled, frozenset(modes))


def _peak_kib(pid: int) -> int:
    """Return VmHWM of a process and its children; of one that has ended, 0."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in text.splitlines() if "VmHWM" in line), 0)
    return own + sum(_peak_kib(int(child)) for child in children)


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def _facts(directory: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def rows(answer: Watched) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_the_recording_is_four_times_the_limit(written: Written) -> None:
    size = sum(path.stat().st_size for path in (written.directory / "sockets").iterdir())
    assert size >= 4 * LIMIT_MIB << 20


def test_states_are_counted(written: Written, at_rest_mib: float, tmp_path: Path) -> None:
    answer = watch(
        tmp_path, "report", "states", str(written.directory), *LIMIT, "--format", "ndjson"
    )
    listening = [row for row in rows(answer) if row["state"] == "LISTEN"]
    assert {(row["min"], row["max"]) for row in listening} == {(LISTENERS, LISTENERS)}
    assert sum(row["samples"] for row in listening) == written.crowd.samples
    assert answer.peak_mib < at_rest_mib + BEYOND_MIB


def test_connections_of_their_whole_lives_are_ranked(
    written: Written, at_rest_mib: float, tmp_path: Path
) -> None:
    command = ["report", "connections", str(written.directory), "--param", "order=queue"]
    answer = watch(tmp_path, *command, *LIMIT, "--format", "ndjson", "--top", "5")
    peaks = [max(row["recv_q_peak_bytes"], row["send_q_peak_bytes"]) for row in rows(answer)]
    assert peaks == [written.crowd.queue_peak] * 5
    assert answer.peak_mib < at_rest_mib + BEYOND_MIB


def test_every_connection_is_counted_once(
    written: Written, at_rest_mib: float, tmp_path: Path
) -> None:
    query = "SELECT count(*) AS all, count(closed) AS closed FROM connections"
    answer = watch(tmp_path, "sql", str(written.directory), query, *LIMIT, "--format", "ndjson")
    assert rows(answer) == [{"all": SOCKETS - LISTENERS, "closed": written.crowd.closed}]
    assert answer.peak_mib < at_rest_mib + BEYOND_MIB


def test_growing_queues_are_found(written: Written, at_rest_mib: float, tmp_path: Path) -> None:
    command = ["report", "queue_growth", str(written.directory), "--top", "1000"]
    answer = watch(tmp_path, *command, *LIMIT, "--format", "ndjson")
    found = {row["cookie"]: row["queue"] for row in rows(answer)}
    assert len(found) == 1000
    assert {cookie % 50: queue for cookie, queue in found.items()} == {1: "Recv-Q", 2: "Send-Q"}
    assert answer.peak_mib < at_rest_mib + BEYOND_MIB


def test_a_sort_of_all_rows_spills_into_a_private_directory_only(
    written: Written, at_rest_mib: float, tmp_path: Path
) -> None:
    before = _facts(written.directory)
    sorted_rows = tmp_path / "sorted.arrow"
    query = (
        "SELECT netns, cookie, sample, bytes_sent, bytes_received "
        "FROM sockets ORDER BY bytes_sent, cookie, sample"
    )
    command = ["sql", str(written.directory), query, "--format", "arrow"]
    answer = watch(tmp_path, *command, "-o", str(sorted_rows), *LIMIT)
    assert answer.spilled > 0
    assert answer.modes == {0o700}
    assert answer.peak_mib < at_rest_mib + BEYOND_MIB
    assert _facts(written.directory) == before
    with pa.memory_map(str(sorted_rows)) as file:
        table = pa.ipc.open_stream(file).read_all()
        sent = table["bytes_sent"].combine_chunks()
        assert len(sent) == written.rows
        assert pc.all(pc.less_equal(sent[:-1], sent[1:])).as_py()


def test_what_does_not_fit_is_refused_in_one_line(written: Written, tmp_path: Path) -> None:
    # A row of all columns, in runs to be merged at once, is more than the limit holds.
    query = "SELECT * FROM sockets ORDER BY bytes_sent"
    command = [sys.executable, "-m", "sockrec", "sql", str(written.directory), query, *LIMIT]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("sockrec: ")
    assert "memory" in done.stderr.lower()
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
