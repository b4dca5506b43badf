"""The command ss on recordings of known rows: moments, namespaces, sums, closes, JSON, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer

from analyzer.cli_ss import app, read_options
from analyzer.reading.recording import open_recording
from analyzer.reading.sources import Sources
from analyzer.ss.families import tipc_words
from analyzer.ss.rows import Rows
from analyzer.ss.selection import SelectionError
from analyzer.ss.show import Recorded, Show
from analyzer.ss.words import Options
from recorder.format.times import TimeError
from recorder.ssfilter import FilterError
from tests.analyzer.support.recordings import (
    NETNS,
    Row,
    Writer,
    carried,
    counter,
    step,
    tcp,
    time_of,
    unix,
)

COMMAND = typer.main.get_command(app)
BLUE = NETNS + 7
ROOT = Path(__file__).parents[3]


class Answers:
    """What ``sockrec ss`` prints of a recording, and what it tells beside that."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.told: list[str] = []

    def __call__(self, *words: str, width: int | None = None) -> str:
        with COMMAND.make_context("ss", ["RECORDING", *words]) as ctx:
            asked = read_options(ctx, ctx.params["words"][1:])
        self.told, out = [], StringIO()
        Show(self._recorded, asked, out, self.told.append, width).run()
        return out.getvalue()


@contextmanager
def answers(directory: Path) -> Iterator[Answers]:
    with Rows(Sources([open_recording(directory)])) as rows:
        yield Answers(Recorded(rows, UTC))


def namespace(netns: int, **columns: Any) -> dict[str, Any]:
    return {"netns": netns, "entered": True, "valid_from": time_of(0), **columns}


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Ten samples a second apart: a listener, from the third on a connection, one elsewhere."""
    directory = tmp_path_factory.mktemp("ss") / "recording"
    writer = Writer(directory)
    sockstat = {
        "sockets.used": 12,
        "TCP.inuse": 3,
        "TCP.orphan": 50,
        "TCP.tw": 2,
        "TCP.alloc": 90,
        "TCP6.inuse": 1,
    }
    for sample in range(10):
        rows = [
            tcp(1, "LISTEN", send_q=128, local_addr="0.0.0.0", peer_addr="0.0.0.0", peer_port=0),
            tcp(9, netns=BLUE, peer_port=40_009, pid=300, comm="blue\x1b[31m"),
            unix(7, inode=77, peer_inode=78),
        ]
        if sample >= 3:
            rows.append(tcp(2, peer_port=40_002, recv_q=sample, timer="on", expires_ms=1500))
            rows.append(carried(3, "FIN-WAIT-2", peer_port=40_003, timer="timewait"))
        more: dict[str, Any] = {}
        if sample == 0:
            more = {
                "namespaces": [
                    namespace(NETNS, home=True, name="host"),
                    namespace(BLUE, home=False, name="blue,other"),
                ],
                "counters": [
                    {**counter(name, value), "source": "sockstat"}
                    for name, value in sockstat.items()
                ],
            }
        if sample == 5:
            more["closes"] = [
                {"family": "inet", "netid": "tcp", "local_addr": "127.0.0.1", "local_port": 80}
                | {"peer_addr": "127.0.0.1", "peer_port": port, "cookie": 100 + port}
                | {"recv_q": 0, "send_q": 0, "connection": True}
                for port in (7, 40_007)
            ]
        steps = [step("tcp"), step("unix")]
        if sample == 8:
            steps[1] = step("unix", outcome="truncated", detail="one datagram was too large")
        writer.sample(rows, steps=steps, **more)
    writer.seal()
    with answers(directory) as found:
        yield found


def ports(text: str) -> list[str]:
    return [line.split()[-1].rpartition(":")[2] for line in text.splitlines()[1:]]


@pytest.mark.parametrize(
    ("at", "sample", "away"),
    [
        ("first", 0, None),
        ("last", 9, None),
        ("sample:4", 4, None),
        ("+2s", 2, None),
        ("-3.4s", 6, "0.400 s after"),
        ("15:04:08", 3, None),
        ("2026-11-22T15:04:09.2Z", 4, "0.200 s before"),
        ("2020-01-01T00:00:00Z", 0, "after the moment asked for"),
    ],
)
def test_a_moment_is_the_nearest_sample_and_told(
    ask: Answers, at: str, sample: int, away: str | None
) -> None:
    text = ask("-tan", "--at", at)
    assert ports(text) == ["*", "40002", "40003"][: 3 if sample >= 3 else 1]
    (told,) = [line for line in ask.told if "sample" in line]
    assert f"sample {sample}" in told
    assert (away in told) if away else ("asked for" not in told)


@pytest.mark.parametrize("at", ["yesterday", "sample:99", "mark:begin", "25:00"])
def test_a_moment_that_there_is_none_of_is_an_error(ask: Answers, at: str) -> None:
    with pytest.raises(TimeError) as caught:
        ask("--at", at)
    assert caught.value.option == "--at"


def test_every_prints_one_moment_after_another_below_its_time(ask: Answers) -> None:
    text = ask("-tHn", "--every", "2s", "--from", "+3s", "--to", "+6s")
    assert text.splitlines() == [
        "2026-11-22T15:04:08.000Z",
        "ESTAB      3      0      127.0.0.1:80 127.0.0.1:40002",
        "FIN-WAIT-2 0      0      127.0.0.1:80 127.0.0.1:40003",
        "2026-11-22T15:04:10.000Z",
        "ESTAB      5      0      127.0.0.1:80 127.0.0.1:40002",
        "FIN-WAIT-2 0      0      127.0.0.1:80 127.0.0.1:40003",
    ]


def test_a_namespace_is_shown_by_name_or_number_and_all_with_a_column(ask: Answers) -> None:
    assert ports(ask("-tn")) == ["40002", "40003"]
    assert "1 more by -N NAME" in " ".join(ask.told)
    assert ports(ask("-tn", "-N", "other")) == ["40009"]
    assert ports(ask("-tn", "-N", str(BLUE))) == ["40009"]
    header, *lines = ask("-tn", "-N", "all").splitlines()
    assert header.split()[:2] == ["Netns", "State"]
    assert [line.split()[0] for line in lines] == ["host", "host", "blue"]
    with pytest.raises(SelectionError, match="there are host, blue"):
        ask("-N", "red")


def test_the_process_is_the_recordings_own_and_its_name_harmless(ask: Answers) -> None:
    text = ask("-tnpH")
    assert 'users:(("nginx",pid=100,fd=3))' in text
    assert text.count("users:") == 1  # whose descriptor it was is no holder now, as ss has it
    assert '(("blue\\x1b[31m",pid=300' in ask("-tnpH", "-N", "blue")


def test_closes_are_printed_as_ss_prints_events(ask: Answers) -> None:
    """The columns grow with what they have to hold; the header was as wide as the first."""
    assert ask("-E", "-tn").splitlines() == [
        "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess",
        "UNCONN 0      0          127.0.0.1:80      127.0.0.1:7          ",
        "UNCONN 0      0          127.0.0.1:80      127.0.0.1:40007       ",
    ]
    assert ask("-E", "-tnH", "dport", ">", "100").count("\n") == 1
    assert ask("-E", "-tnH", "--from", "+8s") == ""


def test_sums_of_one_namespace_among_several_are_not_the_hosts(ask: Answers) -> None:
    assert ask("-s").splitlines() == [
        "Total: 12",
        "TCP:   6 (estab 0, closed 0, orphaned 0, timewait 2)",
        "",
        "Transport Total     IP        IPv6",
        "RAW\t  0         0         0        ",
        "UDP\t  0         0         0        ",
        "TCP\t  4         3         1        ",
        "INET\t  4         3         1        ",
        "FRAG\t  0         0         0        ",
        "",
    ]
    assert ask("-s", "-N", "blue") == ""
    assert "no counters" in ask.told[-1]


def test_json_has_every_column_that_is_known(ask: Answers) -> None:
    found = json.loads(ask("--json", "-t", "sport", "=", ":80", "--at", "first", "-a"))
    assert [row["state"] for row in found] == ["LISTEN"]
    assert found[0]["sample_time"] == "2026-11-22T15:04:05Z"
    assert found[0]["comm"] == "nginx"
    assert "rtt_us" not in found[0]
    assert json.loads(ask("--json", "-u")) == []


def test_a_table_that_could_not_be_read_is_told(ask: Answers) -> None:
    ask("-x", "--at", "sample:8")
    assert "unix may lack sockets at that moment: one datagram was too large" in ask.told
    ask("-t", "--at", "sample:8")
    assert not [line for line in ask.told if "unix" in line]


def test_columns_spread_over_a_screen_and_break_where_they_do_not_fit(ask: Answers) -> None:
    lines = ask("-tn", width=80).splitlines()
    assert {len(line) for line in lines} == {80}
    joined = "".join(ask("-tnp", width=50).split("\n"))
    assert len(joined) % 50 == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["-A", "sockets"], SelectionError),
        (["-f", "appletalk"], SelectionError),
        (["exclude", "all", "-A", "!tcp"], SelectionError),
        (["-E", "-x"], SelectionError),
        (["sport", "=", ":1", "state", "listening"], FilterError),
    ],
)
def test_a_wrong_use_is_an_error(ask: Answers, words: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(*words)


def test_a_mixed_filter_is_warned_of(ask: Answers) -> None:
    ask("-t", "sport", "=", ":80", "or", "sport", "=", ":81", "and", "dport", "=", ":1")
    assert "write brackets" in ask.told[0]


def test_a_connection_of_tipc_has_its_drops_and_the_name_it_was_made_by() -> None:
    details = '{"has_publ": true, "con": {"flag": true, "type": 18889, "inst": 1}}'
    row = {"netid": "ti_st", "drops": 3, "details": details}
    told = tipc_words(row, Options(tipcinfo=True, oneline=True))
    assert told == " type:STREAM cong:none  drop:3  publ via {18889,1} "


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sockrec", "ss", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_the_command_prints_and_its_errors_point_at_the_word(tmp_path: Path) -> None:
    sample = "samples/healthy/recording"
    done = run(sample, "-tlnp", "--at", "+3s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[3] == "10.0.0.11:80"
    assert done.stderr.startswith("sockrec: at 2026-11-22T22:29:31.591Z, sample 6")
    done = run(sample, "sport = :1 state listening")
    assert done.returncode == 2
    assert done.stderr.endswith("\n  sport = :1 state listening\n             ^^^^^\n")
    done = run(sample, "-K")
    assert done.returncode == 2
    assert "a recording closes no sockets" in done.stderr
    filters = tmp_path / "filter"
    filters.write_text("# web\nsport = :80\n")
    assert run(sample, "-tlnH", "-F", str(filters)).stdout.count("\n") == 1


def test_a_cut_counts_what_did_not_change_since_before_it(tmp_path: Path) -> None:
    sample, part = "samples/healthy/recording", str(tmp_path / "part")
    command = [sys.executable, "-m", "sockrec", "cut", sample, "-o", part, "--from", "+20s"]
    subprocess.run(command, check=True, timeout=120, cwd=ROOT, capture_output=True)
    counted = run(sample, "-s").stdout
    assert "TCP:" in counted
    assert run(part, "-s").stdout == counted


@pytest.mark.parametrize(
    ("netid", "kind"), [("xdp", "sport = :5"), ("sctp", "-S"), ("foo", "-0i"), (None, "-0")]
)
def test_rows_of_strangers_are_no_traceback(tmp_path: Path, netid: str | None, kind: str) -> None:
    family = {"xdp": "xdp", "sctp": "inet"}.get(str(netid), "packet")
    writer = Writer(tmp_path / "r")
    details = ("[1]", "[" * 100_000, "{", '{"queue_id": "x"}')
    odd: Row = {"netid": netid, "family": family}
    writer.sample([tcp(n, "UNCONN", details=text, **odd) for n, text in enumerate(details, 1)])
    writer.seal()
    with answers(tmp_path / "r") as ask:
        ask("-Ha", *(["--xdp"] if netid == "xdp" else []), *kind.split())


def test_help_before_a_command_is_of_all_commands() -> None:
    command = [sys.executable, "-m", "sockrec", "--help", "ss"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert "record" in done.stdout
    assert "summary" in done.stdout


def test_units_containers_and_namespaces_are_those_of_that_moment(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r")
    process = {"pid": 100, "start_us": 5_000_000, "valid_from": time_of(0)}
    box = {"cgroup_id": 7, "path": "/pods/a", "container": "c0ffee"}
    nobody: dict[str, Any] = dict.fromkeys(("pid", "start_us", "comm"))
    writer.sample(
        [tcp(1), tcp(2, local_port=81, cgroup_id=7, **nobody)],
        owners=[process | {"unit": "nginx.service"}],
        cgroups=[box],
        namespaces=[{"name": "blue", "valid_from": time_of(0), "entered": 1, "home": 1}],
    )
    writer.sample([tcp(2, local_port=81, cgroup_id=7, **nobody)], closes=[tcp(1)])
    with answers(tmp_path / "r") as ss:
        for text, local in (
            ("unit nginx.service", [":80"]),
            ("container c0f", [":81"]),
            ("netns blue", [":80", ":81"]),
            ("netns red or unit other", []),
            ("not unit nginx.service", [":81"]),
        ):
            shown = ss("-tnH", "--at", "first", *text.split()).splitlines()
            assert [line.split()[3][-3:] for line in shown] == local, text
        assert ss("-tnH", "unit", "nginx.service") == ""
        assert len(ss("-tnHE", "unit", "nginx.service").splitlines()) == 1


def test_associations_hang_below_their_endpoint_and_only_where_they_are_asked_for(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "r")
    common: Row = {"netid": "sctp", "inode": 70, "local_port": 7000}
    common |= {"peer_addr": None, "peer_port": 0}
    peers = json.dumps({"peers": ["10.0.0.9"]})
    writer.sample(
        [
            tcp(1),
            tcp(5, details=peers, **{**common, "peer_addr": "10.0.0.9", "peer_port": 7001}),
            tcp(6, "LISTEN", **common),
        ]
    )
    writer.seal()
    with answers(tmp_path / "r") as ask:
        assert len(ask("-Hta").splitlines()) == 1
        endpoint, association = ask("-HSan").splitlines()
        assert endpoint.startswith("LISTEN")
        assert association.startswith("`- ESTAB")
        assert len(ask("-HtSan", "dport", "=", ":7001").splitlines()) == 1
