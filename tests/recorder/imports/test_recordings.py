"""What an import leaves on the disk and says, as the command is used, and how it is then read."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import sockrec
from analyzer.sql.summary import lacking
from recorder.imports.dump import import_dumps
from recorder.imports.log import LogError
from tests.recorder.support.imported import imported, sockets
from tests.recorder.support.recorded import read

ROOT = Path(__file__).resolve().parents[3]
HEADER = "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
LISTENS = "LISTEN 0 5 0.0.0.0:80 0.0.0.0:*\n"


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sockrec", "import", *words],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def connection(port: int, state: str = "ESTAB", words: str = "") -> str:
    return f"{state} 0 0 192.0.2.1:80 192.0.2.2:{port} {words}\n"


def test_a_socket_keeps_its_cookie_while_it_is_there_and_gets_another_after(tmp_path: Path) -> None:
    shown = [
        connection(1) + connection(2, words="cwnd:1 bytes_acked:9"),
        connection(1) + connection(2, words="cwnd:1 bytes_acked:3"),
        connection(1, "TIME-WAIT"),
        connection(1) + connection(2),
    ]
    text = "".join(f"170411040{n}\n{HEADER}{LISTENS}{rows}" for n, rows in enumerate(shown))
    rows = sockets(imported(tmp_path, text))
    cookies = {
        port: [row["cookie"] for row in rows if row["peer_port"] == port] for port in (0, 1, 2)
    }
    assert len(set(cookies[0])) == 1
    assert cookies[1][0] == cookies[1][1] == cookies[1][2] != cookies[1][3]
    assert len(set(cookies[2])) == 3  # a counter fell; it was gone
    assert all(cookie < 0 for row in cookies.values() for cookie in row)


def test_summary_and_reports_run_and_say_what_the_log_cannot_tell(tmp_path: Path) -> None:
    text = "".join(
        f"170411{4000 + 10 * n}\n{HEADER}{LISTENS}{connection(1)}"
        + (connection(2, "CLOSE-WAIT") if n else "")
        for n in range(4)
    )
    recording = imported(tmp_path, text)
    with sockrec.open(recording) as opened:
        summary = opened.summary()
        why = {one.finding: one.why for one in summary.unchecked}
        assert why["resets"] == "the ends of connections were not recorded"
        assert why["time_wait"] == "the kernel's settings were not recorded"
        assert why["descriptor_leak"] == "the processes were not recorded"
        assert why["udp_drops"] == "UDP sockets were not recorded"
        assert "close_wait" in {finding.name for finding in summary.checked} | {
            str(row["finding"]) for row in summary
        }
        states = opened.report("states").table().to_pylist()
        assert {row["state"] for row in states if row["max"] == 1} == {
            "LISTEN",
            "ESTAB",
            "CLOSE-WAIT",
        }
        assert len(opened.report("connections")) == 2
    steps = read(recording, "samples").to_pylist()
    assert {(row["step"], row["source"], row["outcome"]) for row in steps} == {("tcp", "log", "ok")}
    assert [row["opened"] for row in sorted(steps, key=lambda row: row["sample"])] == [0, 1, 0, 0]
    facts = json.loads((recording / "recording.json").read_text())
    assert facts["imported"] == {"from": "log", "files": ["ss.log"]}
    told = {item["what"]: item["why"] for item in facts["unseen"]}
    assert told["closes"] == "nobody listened for them"
    assert told["tcp_info (rtt_us, snd_cwnd, bytes_acked …)"] == "not in the log (ss -i)"


ALL_WORDS = (
    'timer:(keepalive,5sec,0) users:(("web",pid=7,fd=3)) ino:9 sk:1 '
    "skmem:(r0,rb131072,t0,tb87040,f0,w0,o0,bl0,d0) cubic rto:204 rtt:1/0.5 cwnd:10 bytes_acked:9"
)


@pytest.mark.parametrize(
    ("listens", "words", "lacks"),
    [
        (LISTENS, ALL_WORDS, set()),
        ("", ALL_WORDS, {"listeners"}),
        (LISTENS, "", {"owners", "timers", "tcp_info", "skmem", "inodes"}),
    ],
    ids=["everything", "no -a", "no option"],
)
def test_what_ss_was_not_asked_for_is_lacking(
    listens: str, words: str, lacks: set[str], tmp_path: Path
) -> None:
    recording = imported(tmp_path, f"1704110400\n{HEADER}{listens}{connection(1, words=words)}")
    with sockrec.open(recording) as opened:
        found = lacking(opened.engine)
    never = {"closes", "conntrack", "counters", "limits", "network", "processes", "settings"}
    never |= {"udp", "unix"}
    # Of sockets that are not in it nothing is lacking but they.
    assert found.keys() - never == lacks
    if "tcp_info" in lacks:
        assert found["tcp_info"] == "it needs tcp_info, and none is in it (ss -i)"


def test_a_table_with_a_line_that_cannot_be_read_is_not_whole(tmp_path: Path) -> None:
    broken = "ESTAB 0 0 192.0.2.1:80 192.0.2.2:notaport!\n"
    recording = imported(tmp_path, f"1704110400\n{HEADER}{LISTENS}{broken}")
    (step,) = read(recording, "samples").to_pylist()
    assert step["outcome"] == "partial"
    assert step["detail"] == "lines of sockets that could not be read: 1"
    facts = json.loads((recording / "recording.json").read_text())
    told = {item["what"]: item["why"] for item in facts["unseen"]}
    assert told["lines of the log: 1"] == f"ss.log:4: {broken.strip()}"


def test_a_number_that_no_kernel_has_is_null(tmp_path: Path) -> None:
    line = connection(1, words=f"cwnd:{10**30} rto:204")
    (row,) = sockets(imported(tmp_path, f"1704110400\n{line}"))
    assert row["snd_cwnd"] is None
    assert row["rto_us"] == 204_000


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (HEADER + LISTENS, {}, "nothing in the log says when this was"),
        (2 * (HEADER + LISTENS), {"start": "2024-01-01"}, "give --interval"),
        ("hello\n", {}, "no socket of ss or netstat is in it; ss.log:1: hello"),
        ("12:00:00\n" + LISTENS, {}, "nothing in the log says when this was"),
        ("Mon Jan  1 12:00:00 CET 2024\n" + LISTENS, {}, "line 1: CET may be several time zones"),
        (
            f"1704110400\n{HEADER}{connection(1)}{HEADER}{connection(1)}",
            {},
            "the same sockets are listed again without a date between: give --interval",
        ),
    ],
)
def test_what_is_missing_is_asked_for(
    text: str, options: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(LogError) as caught:
        imported(tmp_path, text, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_listings_that_nothing_separates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="the same sockets are listed again"):
        imported(tmp_path, f"1704110400\n{3 * connection(1)}")


def test_a_socket_that_is_listed_twice_is_recorded_once_and_that_is_told(tmp_path: Path) -> None:
    lines = "".join(connection(port) for port in (1, 2, 3, 4, 1))
    recording = imported(tmp_path, f"1704110400\n{HEADER}{lines}")
    assert len(sockets(recording)) == 4
    facts = json.loads((recording / "recording.json").read_text())
    told = {item["what"]: item["why"] for item in facts["unseen"]}
    assert told["repeated lines"] == "sockets listed twice in a sample, recorded once: 1"


def test_a_sample_that_is_not_later_than_the_one_before_is_left_out_and_told(
    tmp_path: Path,
) -> None:
    text = "".join(f"170411040{n}\n{HEADER}{LISTENS}" for n in (2, 1, 3))
    recording = imported(tmp_path, text)
    assert [row["sample"] for row in sockets(recording)] == [0, 1]
    facts = json.loads((recording / "recording.json").read_text())
    told = {item["what"]: item["why"] for item in facts["unseen"]}
    assert "1, the first at ss.log:4" in told["samples out of order"]


def test_a_refusal_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "ss.log").write_text(HEADER + LISTENS)
    done = run("ss", "ss.log", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("sockrec: ss.log: line 1: nothing in the log says when this was")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_could_not_read(tmp_path: Path) -> None:
    (tmp_path / "ss.log").write_text(f"{HEADER}{LISTENS}what\x1b[2J is this\n{HEADER}{LISTENS}")
    done = run(
        *("ss", "ss.log", "-o", "out", "--start", "2024-01-01 13:00", "--interval", "2s"),
        *("--timezone", "Europe/Berlin", "--host", "web1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "lines that could not be read: 1\n  ss.log:3: what is this\n" in done.stderr
    assert "2 samples, 2 socket rows in out\n" in done.stderr
    times = [row["sample_time"].hour for row in sockets(tmp_path / "out")]
    assert times == [12, 12]
    with sockrec.open(tmp_path / "out") as opened:
        assert opened.sql("SELECT DISTINCT host FROM sockets").table().to_pylist() == [
            {"host": "web1"}
        ]


@pytest.mark.parametrize(
    "words",
    [("ss", "x"), ("ss", "x", "-o", "y", "--kind", "tls"), ("dump", "x", "-o", "y"), ("nothing",)],
)
def test_wrong_use_is_status_2(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_a_dump_that_was_cut_is_not_whole_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    whole = (ROOT / "tests/recorder/dumps/tcp.bin").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    start = ("--start", "2024-01-01T12:00Z")
    done = run("dump", "cut", "-o", "out", *start, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "could not be read" in done.stderr
    (step,) = read(tmp_path / "out", "samples").to_pylist()
    assert (step["outcome"], step["source"]) == ("truncated", "dump")
    (tmp_path / "text").write_text(HEADER)
    done = run("dump", "text", "-o", "other", *start, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no dump of sock_diag" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("size", [15, 16, 40])
def test_any_bytes_after_a_header_are_no_traceback(size: int, tmp_path: Path) -> None:
    message = struct.pack("=IHHII", max(size, 16), 20, 2, 1, 1) + bytes(range(2, 2 + size))
    (tmp_path / "d").write_bytes(message[:size])
    target = tmp_path / "r"
    if size <= 16:
        with pytest.raises(LogError, match="no dump"):
            import_dumps([tmp_path / "d"], target, start_us=0, interval_us=None)
    else:
        result = import_dumps([tmp_path / "d"], target, start_us=0, interval_us=None)
        assert result.samples == 1
