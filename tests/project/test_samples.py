"""The samples: small whole recordings that agree with what their processes knew of the incident."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import analyzer

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
NAMES = """
accept_overflow close_wait_leak descriptor_leak gateway_lost healthy port_exhaustion
short_connections slow_reader stalled_sender time_wait_storm udp_drops
""".split()
MOST_BYTES = 400_000
HEALTHY_SAMPLES = 5

# What a stranger may read of the machine a sample was made on: nothing but these.
PATHS = re.compile(r"/|/usr/(local/)?s?bin/[\w.-]+")
ADDRESSES = {"10.0.0.11", "192.0.2.11", "198.51.100.20", "0.0.0.0"}
UNIX_NAMES = {"@logd"}
RECORDERS = re.compile(r"@sockrec-[0-9a-f]{32}")  # by which it is told marks
USERS = {"root", "nobody", "www-data", "nginx", "redis"}

Row = dict[str, Any]


class Sample:
    """One sample, its tables read without the analyzer."""

    def __init__(self, name: str) -> None:
        self.place = SAMPLES / name
        self.recording = self.place / "recording"
        self.truth = json.loads((self.place / "truth.json").read_text())
        self.facts = json.loads((self.recording / "recording.json").read_text())
        self.numbers = self.truth["numbers"]

    def table(self, name: str) -> pa.Table:
        return pq.read_table(self.recording / name / "000001.parquet")

    def rows(self, name: str, /, *columns: str, **equal: object) -> list[Row]:
        """Return the rows of a table in which these columns have these values."""
        table = self.table(name)
        for column, value in equal.items():
            table = table.filter(pc.equal(table[column], value))
        rows: list[Row] = table.select(columns).to_pylist()
        return rows

    def last(self, *columns: str, **equal: object) -> list[Row]:
        """Return the rows of the last sample."""
        last = pc.max(self.table("samples")["sample"]).as_py()
        return self.rows("sockets", *columns, sample=last, **equal)

    def counted(self, name: str) -> int:
        """Return how much a counter grew over the recording."""
        values = [int(row["value"]) for row in self.rows("counters", "value", name=name)]
        return max(values) - min(values)

    def setting(self, name: str) -> str:
        (row,) = self.rows("settings", "value", name=name)
        return str(row["value"])

    def times(self) -> list[datetime]:
        return sorted(set(self.table("samples")["sample_time"].to_pylist()))


def at(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).replace(tzinfo=None)


def texts(value: object) -> Iterator[str]:
    """Yield every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts(list(value))
        yield from texts(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@pytest.fixture(params=NAMES)
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(request.param)


def test_every_incident_has_its_sample_and_no_sample_is_left_over() -> None:
    defined = {path.stem for path in SAMPLES.glob("*.py") if "\nINCIDENT = " in path.read_text()}
    present = {path.parent.name for path in SAMPLES.glob("*/truth.json")}
    listed = re.findall(r"^\| `(\w+)` \| [A-Z]", (SAMPLES / "README.md").read_text(), re.MULTILINE)
    assert defined == present == set(NAMES)
    assert sorted(listed) == NAMES


def test_a_sample_is_small(sample: Sample) -> None:
    files = [path for path in sample.place.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_a_sample_is_sealed_whole(sample: Sample) -> None:
    files = {path.relative_to(sample.recording) for path in sample.recording.rglob("*.*")}
    named = {path.name for path in files} - {"segments.jsonl"}  # which is younger than most
    assert named == {"recording.json", "000001.parquet"}
    assert sample.facts["ended"]
    assert sample.facts["exit"] == "signal"
    assert sample.facts["skipped"] == 0
    outcomes = Counter(row["outcome"] for row in sample.rows("samples", "outcome"))
    assert set(outcomes) <= {"ok", "skipped_empty", "unavailable", "partial"}
    assert {row["lost"] for row in sample.rows("samples", "lost")} <= {0, None}


def test_a_sample_opens(sample: Sample) -> None:
    with analyzer.open(sample.recording) as recording:
        table = recording.sql("SELECT count(DISTINCT sample) AS samples FROM samples").df()
    assert table["samples"].tolist() == [len(sample.times())]


def test_the_truth_is_that_of_its_script(sample: Sample) -> None:
    incident = importlib.import_module(f"samples.{sample.place.name}").INCIDENT
    truth = sample.truth
    assert list(truth) == "incident story finding comm pid subject numbers processes".split()
    assert truth["incident"] == incident.name == sample.place.name
    assert truth["story"] == incident.story
    assert truth["finding"] == incident.finding
    assert truth["comm"] == incident.comm
    assert truth["subject"] == incident.subject
    assert (truth["finding"] is None) == (truth["comm"] is None) == (truth["incident"] == "healthy")
    assert truth["subject"] is None or re.fullmatch(r"[\d.]+:\d+|next hop [\d.]+", truth["subject"])
    assert all(isinstance(number, int | float | str) for number in truth["numbers"].values())


def test_the_processes_of_the_truth_are_owners_in_the_recording(sample: Sample) -> None:
    owners = {(row["pid"], row["comm"]) for row in sample.rows("owners", "pid", "comm")}
    known = {(process["pid"], comm) for comm, process in sample.truth["processes"].items()}
    if "collector" in sample.truth["processes"]:  # it plays another host, in a namespace of its own
        known = {(pid, comm) for pid, comm in known if comm != "collector"}
    assert known <= owners
    culprit = (sample.truth["pid"], sample.truth["comm"])
    assert culprit == (None, None) or culprit in known


def test_a_sample_begins_healthy(sample: Sample) -> None:
    times = sample.times()
    began = sample.numbers.get("began_us")
    if began is None:
        assert sample.place.name == "healthy"
        return
    assert sum(time < at(began) for time in times) >= HEALTHY_SAMPLES
    assert at(began) < times[-1]
    assert at(sample.numbers.get("until_us", began)) < times[-1]


def test_nothing_of_the_machine_is_in_a_sample(sample: Sample) -> None:
    tables = {path.parent.name: pq.read_table(path) for path in sample.recording.glob("*/*")}
    found: set[str] = set()
    for name, table in tables.items():
        metadata = table.schema.metadata or {}
        assert json.loads(metadata[b"sockrec.recording"])["host"] == "web1"
        found.update(texts(json.loads(metadata[b"sockrec.recording"])))
        for column in table.columns:
            if pa.types.is_string(column.type):
                found.update(text for text in pc.unique(column).to_pylist() if text is not None)
        assert table.num_rows, name
    found.update(texts(sample.facts))
    found.update(texts(sample.truth))
    paths = {path for text in found for path in re.findall(r"(?<!\S)/\S*", text)}
    assert {path for path in paths if not PATHS.fullmatch(path)} == set()

    sockets = tables["sockets"]
    inet = sockets.filter(pc.is_in(sockets["family"], pa.array(["inet", "inet6"])))
    unix = sockets.filter(pc.equal(sockets["family"], "unix"))
    for column in ("local_addr", "peer_addr"):
        assert set(inet[column].to_pylist()) <= ADDRESSES
        names = {name for name in unix[column].to_pylist() if not RECORDERS.fullmatch(name or "")}
        assert names <= UNIX_NAMES | {None, "*"}
    assert {row["user"] for row in sample.rows("owners", "user")} <= USERS
    assert {row["cgroup"] for row in sample.rows("owners", "cgroup")} <= {"/", None}
    assert {row["path"] for row in sample.rows("cgroups", "path")} <= {"/", None}
    assert sample.facts["host"] == "web1"


def test_the_bytes_of_a_sample_name_neither_this_checkout_nor_its_python(sample: Sample) -> None:
    own = {str(ROOT), sys.prefix, str(Path.home() / "."), os.path.realpath(sys.executable)}
    for path in sample.place.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [text for text in own if f"{text}/".encode() in content] == []


def test_time_waits_are_as_many_as_the_client_opened() -> None:
    sample = Sample("time_wait_storm")
    numbers = sample.numbers
    closes = sample.rows("closes", "local_port", peer_port=8443)
    left = sample.last("local_port", peer_port=8443, state="TIME-WAIT")
    assert len(closes) == len(left) == numbers["opened"] > 1000
    assert len({row["local_port"] for row in left}) == numbers["opened"]
    assert len(left) <= numbers["time_waits_at_end"] < len(left) + 20
    low, high = (int(word) for word in sample.setting("net.ipv4.ip_local_port_range").split())
    assert high - low + 1 == numbers["ports"]
    assert len(left) / numbers["ports"] > 0.6
    assert sample.counted("TcpExt.TCPTimeWaitOverflow") == 0


def test_close_waits_are_those_the_server_forgot() -> None:
    sample = Sample("close_wait_leak")
    left = sample.last("cookie", "pid", "local_port", state="CLOSE-WAIT")
    assert len(left) == sample.numbers["leaked"] == sample.numbers["exports"] > 50
    assert {(row["pid"], row["local_port"]) for row in left} == {(sample.truth["pid"], 9000)}
    first = min(r["sample_time"] for r in sample.rows("sockets", "sample_time", state="CLOSE-WAIT"))
    assert sample.times()[-1] - first >= timedelta(seconds=60)
    until = at(sample.numbers["until_us"])
    closed = sum(row["time"] < until for row in sample.rows("closes", "time", local_port=9000))
    assert abs(closed - sample.numbers["short_connections_closed"]) <= 2  # at both ends


def test_the_listener_dropped_what_the_kernel_counted() -> None:
    sample = Sample("accept_overflow")
    rows = sample.rows(
        "sockets", "sample", "recv_q", "send_q", "drops", state="LISTEN", local_port=8081
    )
    numbers = sample.numbers
    assert {row["send_q"] for row in rows} == {numbers["backlog"]}
    assert max(row["recv_q"] for row in rows) == numbers["backlog"] + 1
    last = max(rows, key=lambda row: int(row["sample"]))
    assert last["recv_q"] == 0
    dropped = sample.counted("TcpExt.ListenOverflows")
    assert last["drops"] == dropped
    assert numbers["listen_overflows"] <= dropped < numbers["listen_overflows"] + 20
    assert numbers["attempts"] == (
        numbers["answered"] + numbers["not_connected"] + numbers["no_reply"]
    )
    assert 2 * numbers["not_connected"] <= dropped  # each tried again before it gave up


def test_the_slow_reader_holds_up_its_sender_and_the_other_reader_does_not() -> None:
    sample = Sample("slow_reader")
    numbers = sample.numbers
    (reader,) = sample.last("bytes_received", "recv_q", "local_port", comm="report-job")
    assert reader["bytes_received"] <= numbers["bytes_read"] + numbers["recv_q_at_end"]
    assert reader["bytes_received"] > 0.95 * (numbers["bytes_read"] + numbers["recv_q_at_end"])
    senders = sample.last("peer_port", "send_q", "rwnd_limited_us", comm="report-db", state="ESTAB")
    held_up = {row["peer_port"] == reader["local_port"]: row for row in senders}
    assert len(senders) == len(held_up) == 2
    assert held_up[True]["send_q"] > 1_000_000
    assert held_up[True]["rwnd_limited_us"] > 15_000_000
    assert held_up[False]["send_q"] < 100_000
    assert held_up[False]["rwnd_limited_us"] < 100_000
    assert numbers["bytes_read_by_dashboard"] > 3 * numbers["bytes_read"]


def test_the_stalled_data_is_what_the_peer_did_not_get() -> None:
    sample = Sample("stalled_sender")
    numbers = sample.numbers
    (row,) = sample.last(
        "peer_addr", "send_q", "bytes_acked", "timer", "backoff", "total_retrans",
        comm="log-shipper",
    )  # fmt: skip
    assert f"{row['peer_addr']}:6514" == sample.truth["subject"]
    assert row["send_q"] == numbers["send_q_at_end"] > 0
    assert row["bytes_acked"] - 1 == numbers["bytes_received_by_peer"]  # its SYN counts as one
    assert numbers["bytes_sent"] == numbers["bytes_received_by_peer"] + numbers["send_q_at_end"]
    assert row["timer"] == "on"
    assert row["backoff"] >= 5
    assert row["total_retrans"] >= 5


def test_the_gateway_answers_no_more_and_what_is_sent_waits() -> None:
    sample = Sample("gateway_lost")
    numbers = sample.numbers
    (row,) = sample.last("send_q", "bytes_acked", comm="log-shipper")
    assert row["send_q"] == numbers["send_q_at_end"] > 0
    assert numbers["bytes_sent"] == numbers["bytes_received_by_peer"] + numbers["send_q_at_end"]
    gateway = sample.truth["subject"].split()[-1]
    states = sample.rows("neighbours", "state", "valid_from", "valid_to", address=gateway)
    silent = [one for one in states if one["state"] in ("INCOMPLETE", "FAILED")]
    assert silent
    assert all(one["valid_from"] > at(numbers["began_us"]) for one in silent)
    routes = sample.rows("routes", "dev", "valid_to", gateway=gateway)
    assert routes == [{"dev": "eth0", "valid_to": None}]
    links = {row["dev"]: row["state"] for row in sample.rows("interfaces", "dev", "state")}
    assert links == {"lo": "UNKNOWN", "eth0": "UP"}
    rows = sample.rows("processes", "state", "fds", comm="log-shipper")
    assert {row["state"] for row in rows} <= {"S", "R"}
    assert rows[-1]["fds"] > 0


def test_the_ports_are_all_in_use() -> None:
    sample = Sample("port_exhaustion")
    held = sample.last("local_port", "pid", peer_port=6379, state="ESTAB")
    low, high = (int(word) for word in sample.setting("net.ipv4.ip_local_port_range").split())
    assert {row["local_port"] for row in held} == set(range(low, high + 1))
    assert {row["pid"] for row in held} == {sample.truth["pid"]}
    assert len(held) == sample.numbers["held"] == sample.numbers["ports"]
    assert sample.numbers["connects_failed"] > 50


def test_short_connections_are_in_the_closes_and_hardly_in_the_samples() -> None:
    sample = Sample("short_connections")
    numbers = sample.numbers
    opened = numbers["opened"]
    assert numbers["closed_first_by_client"] + numbers["closed_first_by_server"] == opened > 1000
    assert len(sample.rows("closes", "cookie", peer_port=7000)) == opened
    assert len(sample.rows("closes", "cookie", local_port=7000)) == opened
    seen = {r["cookie"] for r in sample.rows("sockets", "cookie", peer_port=7000, state="ESTAB")}
    assert len(seen) < opened / 10
    seconds = (numbers["until_us"] - numbers["began_us"]) / 1e6
    assert opened / seconds > 100


def test_the_leaked_sockets_are_held_by_the_worker() -> None:
    sample = Sample("descriptor_leak")
    numbers = sample.numbers
    held = sample.last("fd", "pid", netid="udp", peer_port=8125)
    assert {row["pid"] for row in held} == {sample.truth["pid"]}
    assert len(held) == numbers["leaked"] + 1  # the one it used while it was healthy
    assert max(row["fd"] for row in held) < numbers["limit"]
    owners = sample.rows("owners", "fd_limit", comm="image-worker")
    assert {row["fd_limit"] for row in owners} == {numbers["limit"]}
    assert 0.9 < numbers["descriptors_at_end"] / numbers["limit"] < 1


def test_the_datagrams_dropped_are_those_sent_and_not_received() -> None:
    sample = Sample("udp_drops")
    numbers = sample.numbers
    (row,) = sample.last("drops", "recv_q", "pid", netid="udp", local_port=8125)
    assert numbers["sent"] - numbers["received"] == numbers["dropped"] > 1000
    assert row["drops"] == sample.counted("Udp.RcvbufErrors") == numbers["dropped"]
    assert (row["recv_q"], row["pid"]) == (0, sample.truth["pid"])


def test_nothing_is_wrong_in_the_healthy_sample() -> None:
    sample = Sample("healthy")
    for name in "ListenDrops TCPTimeWaitOverflow TCPTimeouts TCPAbortOnTimeout".split():
        assert sample.counted(f"TcpExt.{name}") == 0
    assert sample.counted("Udp.InErrors") == 0
    assert sample.counted("Tcp.RetransSegs") == 0
    drops = sample.table("sockets")["drops"]
    assert pc.max(drops).as_py() == 0
    assert sample.last("cookie", state="CLOSE-WAIT") == []
    numbers = sample.numbers
    assert numbers["metrics_received"] >= numbers["metrics_sent"] - 5 > 100
    assert numbers["pages"] > 300
    connections = sample.last("comm", netid="tcp", state="ESTAB", peer_port=80)
    assert [row["comm"] for row in connections] == ["web-clients"] * numbers["kept_connections"]


def test_a_process_that_fails_fails_the_incident() -> None:
    code = (
        "from samples.stage import Stage, start; stage = Stage(); "
        "start('shop', lambda stage: {'sold': 1 // 0}, stage).leave()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.endswith("StageError: shop ended with status 1\n")


def test_an_unknown_sample_is_told_in_words() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "samples", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "no such sample: demo; try accept_overflow, close_wait_leak" in done.stderr


def cannot_record() -> str | None:
    """Say why this machine cannot make samples, None if it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces of its own"
    absent = [name for name in ("unshare", "mount", "umount", "ip") if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    words = "unshare --net --uts --ipc --cgroup --pid --fork --kill-child --mount-proc true".split()
    if subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL).returncode:
        return "needs the right to make namespaces"
    return None


@pytest.mark.skipif(cannot_record() is not None, reason=str(cannot_record()))
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sample_that_is_stopped_changes_nothing_and_leaves_nothing(
    number: signal.Signals, status: int
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (SAMPLES / "healthy").rglob("*")}
    others = set(SAMPLES.glob(".healthy-*"))  # of runs that were killed
    making = subprocess.Popen(
        [sys.executable, "samples/healthy.py"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    journal = "recording/samples/000001.arrows"
    deadline = time.monotonic() + 60

    def begun() -> set[Path]:
        return {path.parents[2] for path in SAMPLES.glob(f".healthy-*/{journal}")} - others

    while not begun() and time.monotonic() < deadline:
        time.sleep(0.05)
    (into,) = begun()
    while len(processes_with(str(into))) <= 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    mine = processes_with(str(into))
    making.send_signal(number)
    printed, _ = making.communicate(timeout=60)
    assert len(mine) > 3
    assert making.returncode == status
    assert "Traceback" not in printed
    assert not into.exists()
    assert processes_with(str(into)) == []
    assert before == {path: path.stat().st_mtime_ns for path in (SAMPLES / "healthy").rglob("*")}


def processes_with(text: str) -> list[int]:
    """Return the processes that have a text in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_demo_workload_runs_clean(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "samples/demo.py"), "--seconds", "0.5"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("demo: held 80 connections, opened and closed ")
    assert list(tmp_path.iterdir()) == []
