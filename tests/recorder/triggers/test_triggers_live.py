"""A real accept queue that overflows and a real leak of CLOSE-WAIT, kept from before they fired."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import analyzer
from analyzer.sql.catalog import read_findings
from analyzer.sql.verify import verify
from analyzer.sql.views import WHOLE
from recorder.triggers.incidents import Incidents, IncidentsError, Keeping
from tests.recorder.test_marks_live import recording

pytestmark = pytest.mark.live

TIMES = "SELECT DISTINCT t_us FROM samples ORDER BY t_us"
OVERFLOWS, LEAK = "listen_overflows > 0 per 10s", "close_wait_age > 1s for 200ms"


def nobody(text: str, event: str = "degradation") -> None:
    pass


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return where incidents are kept, and what the recorder said."""
    folder = tmp_path_factory.mktemp("triggers")
    program = folder / "hook"
    program.write_text(
        f"#!{sys.executable}\nimport os\nopen({str(folder / 'ran')!r}, 'a')"
        ".write(os.environ['SOCKREC_INCIDENT'] + ' ' + os.environ['SOCKREC_TRIGGER'] + '\\n')\n"
        "raise SystemExit(3)\n"
    )
    program.chmod(0o700)
    options = ["-i", "100ms", "--netns", "current", "--log", "--keep-size", "16M"]
    options += ["--on", OVERFLOWS, "--on", LEAK, "--pre", "1500ms", "--post", "1s"]
    with recording(folder / "r", *options, "--exec", str(program)) as recorder:
        time.sleep(1.0)
        with (
            socket.create_server(("127.0.0.1", 0), backlog=1) as full,
            socket.create_server(("127.0.0.1", 0)) as leaky,
        ):
            clients = [socket.socket() for _ in range(6)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(full.getsockname())
            with socket.create_connection(leaky.getsockname()):
                leaked, _ = leaky.accept()
            deadline = time.monotonic() + 30
            while len(list((folder / "incidents").glob("2*"))) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for each in (*clients, leaked):
                each.close()
        recorder.terminate()
        assert recorder.stderr is not None
        said = recorder.stderr.read()
    return folder, said


def test_each_fires_once_and_is_told(kept: tuple[Path, str]) -> None:
    _, said = kept
    for condition in (OVERFLOWS, LEAK):
        assert said.count(f'event=trigger recording={kept[0]}/r text="{condition}: ') == 1
        assert said.count(f'text="{condition}: kept in {kept[0]}/incidents/') == 1


def test_what_is_kept_is_whole_begins_before_and_ends_after_and_is_marked(
    kept: tuple[Path, str],
) -> None:
    found = sorted((kept[0] / "incidents").iterdir())
    assert [re.sub(r"^\d{8}T\d{6}Z-", "", path.name) for path in found] == [
        "listen_overflows", "close_wait_age"
    ]  # fmt: skip
    for path, condition in zip(found, (OVERFLOWS, LEAK), strict=True):
        with analyzer.open(path) as opened:
            assert verify(opened.engine).whole
            marks = opened.sql(f"SELECT t_us, kind FROM marks WHERE name = '{condition}'").table()
            there = opened.sql(TIMES).table()["t_us"].to_pylist()
        assert marks["kind"].to_pylist() == ["trigger"]
        (at,) = marks["t_us"].to_pylist()
        with analyzer.open(kept[0] / "r") as whole:
            times = whole.sql(TIMES).table()["t_us"].to_pylist()
        around = range(at - 1_500_000, at + 1_000_001)
        assert there == [us for us in times if us in around]
        assert min(there) < at <= max(there)


def test_the_kept_recording_names_the_culprit(kept: tuple[Path, str]) -> None:
    overflow, leak = sorted((kept[0] / "incidents").iterdir())
    finding = read_findings()["accept_queue"]
    with analyzer.open(overflow) as opened:
        found = opened.engine.table(finding.sql, WHOLE, finding.values({})).to_pylist()
    assert [(row["severity"], row["pid"]) for row in found] == [("critical", os.getpid())]
    with analyzer.open(leak) as opened:
        rows = list(opened.sql("SELECT DISTINCT pid FROM sockets WHERE state = 'CLOSE-WAIT'"))
    assert rows == [{"pid": os.getpid()}]


def test_the_command_was_run_for_each_and_its_failure_harmed_nothing(
    kept: tuple[Path, str],
) -> None:
    ran = (kept[0] / "ran").read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in ran) == sorted((OVERFLOWS, LEAK))
    assert kept[1].count("ended with 3") == 2


def test_the_oldest_incidents_go_when_all_are_more_than_their_budget(
    kept: tuple[Path, str], tmp_path: Path
) -> None:
    told: list[str] = []
    source = sorted((kept[0] / "incidents").iterdir())[0]
    size = sum(path.lstat().st_blocks * 512 for path in source.rglob("*") if path.is_file())
    incidents = Incidents(
        source,
        Keeping(tmp_path / "i", int(2.5 * size), 100, 0),
        lambda text, event="degradation": told.append(text),
        {},
    )
    for number in range(4):
        now = time.time_ns() // 1000 + number * 1_000_000
        incidents.begin("x", f"number {number}", now, 0.0)
        incidents.look(1.0)
    names = sorted(path.name[15:] for path in (tmp_path / "i").iterdir())
    assert len(names) == 2
    assert sum("was removed, as it is the oldest" in text for text in told) == 2
    small = Incidents(
        source,
        Keeping(tmp_path / "i", 1 << 10, 100, 0),
        lambda text, event="degradation": told.append(text),
        {},
    )
    small.begin("x", "too large", time.time_ns() // 1000, 0.0)
    small.look(1.0)
    # None of the others goes for one that is too large by itself.
    assert sorted(path.name[15:] for path in (tmp_path / "i").iterdir()) == names
    assert "is more than --incidents-size" in told[-1]


def test_what_was_before_is_kept_where_the_rest_cannot_be(
    kept: tuple[Path, str], tmp_path: Path
) -> None:
    told: list[str] = []
    source = tmp_path / "r"
    shutil.copytree(sorted((kept[0] / "incidents").iterdir())[0], source)
    incidents = Incidents(
        source,
        Keeping(tmp_path / "i", 1 << 30, 1e9, 0),
        lambda text, event="degradation": told.append(text),
        {},
    )
    incidents.begin("x", "full", time.time_ns() // 1000, 0.0)
    (source / "recording.json").unlink()
    incidents.look(1.0)
    (left,) = (tmp_path / "i").iterdir()
    assert told[-1] == f"full: only what was before it is kept, in {left}"
    with analyzer.open(left) as opened:
        assert verify(opened.engine).whole


def test_a_size_that_cannot_be_told_and_a_removal_that_fails_are_told_and_end_nothing(
    kept: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    source = sorted((kept[0] / "incidents").iterdir())[0]
    incidents = Incidents(
        source,
        Keeping(tmp_path / "i", 1 << 10, 100, 0),
        lambda text, event="degradation": told.append(text),
        {},
    )

    def refuse(path: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    incidents.begin("x", "too large", time.time_ns() // 1000, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("recorder.triggers.incidents._size", refuse)
        incidents.look(1.0)
    assert told[-2] == f"{tmp_path / 'i'}: its size is unknown: Permission denied"
    incidents.begin("x", "too large", time.time_ns() // 1000 + 1_000_000, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("recorder.triggers.incidents.shutil.rmtree", refuse)
        incidents.look(1.0)
    assert told[-1].endswith("could not be removed whole: Permission denied")
    assert not any("was removed" in text for text in told)


def test_a_command_that_is_none_is_a_wrong_use(tmp_path: Path) -> None:
    words = ["record", "-o", str(tmp_path / "r"), "--on", OVERFLOWS, "--exec", "a 'b"]
    done = subprocess.run(
        [sys.executable, "-m", "sockrec", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "is no command: no closing quotation" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_where_no_incident_can_be_kept_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IncidentsError, match="no incident can be kept there"):
        Incidents(tmp_path, Keeping(tmp_path / "file", 1, 1, 1), nobody, {})
