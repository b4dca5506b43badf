"""``sockrec diff``: what is known to differ between two moments, and between two recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import sockrec
from tests.analyzer.support.recordings import Row, Writer, counter, step, tcp, unix

MANY = 500


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(sockrec.app, list(map(str, words)), prog_name="sockrec")


def asked(*words: str | Path) -> list[dict[str, Any]]:
    done = run("diff", *words, "--format", "json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [{name: value for name, value in row.items() if value is not None} for row in found]


def client(cookie: int, state: str = "ESTAB", **columns: Any) -> Row:
    there = {"local_port": 40000 + cookie, "peer_addr": "10.0.0.5", "peer_port": 5432}
    return tcp(cookie, state, comm="app", pid=7) | there | columns


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server that gains MANY clients, one client that closes, one whose queue grows."""
    path = tmp_path_factory.mktemp("diff") / "r"
    writer = Writer(path)
    door = tcp(1, "LISTEN", peer_addr=None, peer_port=0)
    stays = [door, unix(2), client(3, send_q=10)]
    drops = {"source": "netstat"}
    steps = [step("tcp"), step("unix"), step("counters")]
    writer.sample(
        [*stays, client(4), client(5)],
        steps=steps,
        counters=[counter("TcpExt.ListenDrops", 3, **drops), counter("Tcp.InSegs", 5)],
        settings=[{"name": "net.core.somaxconn", "value": "4096"}],
    )
    writer.sample([*stays, client(4), client(5)], steps=steps)
    served = [tcp(100 + n) for n in range(MANY)]
    writer.sample(
        [door, unix(2), client(3, send_q=700), client(4, "CLOSE-WAIT"), *served],
        steps=steps,
        counters=[counter("TcpExt.ListenDrops", 9, **drops), counter("Tcp.InSegs", 500)],
        settings=[{"name": "net.core.somaxconn", "value": "128"}],
    )
    return path


def test_many_changes_are_one_line_each_the_most_first(recording: Path) -> None:
    found = asked(recording)
    assert [row["what"] for row in found] == ["sockets"] * 3 + ["counter", "setting"]
    served, ours, closing = found[:3]
    assert served == {
        "what": "sockets",
        "name": "nginx",
        "place": "on :80",
        "measure": "ESTAB",
        "before": 0.0,
        "after": float(MANY),
        "before_percent": 0.0,
        "after_percent": pytest.approx(100 * MANY / (MANY + 4)),
        "appeared": MANY,
        "vanished": 0,
        "entered": 0,
        "gone_on": 0,
        "queued_bytes": 0,
    }
    assert ours["place"] == closing["place"] == "to 10.0.0.5:5432"
    wanted = {"before": 3, "after": 1, "vanished": 1, "gone_on": 1, "queued_bytes": 690}
    assert {name: ours[name] for name in wanted} == wanted
    assert (closing["measure"], closing["entered"], closing["appeared"]) == ("CLOSE-WAIT", 1, 0)


def test_counters_of_trouble_and_settings_stand_beside_them(recording: Path) -> None:
    drops, setting = asked(recording)[3:]
    assert (drops["name"], drops["before"], drops["after"]) == ("TcpExt.ListenDrops", 3, 9)
    assert setting == {"what": "setting", "name": "net.core.somaxconn", "said": "4096 → 128"}


def test_a_moment_is_what_ss_takes_for_one_and_a_filter_chooses(recording: Path) -> None:
    assert asked(recording, "--from", "sample:0", "--to", "sample:1") == []
    told = run("diff", recording, "--filter", "dst 10.0.0.5")
    assert "nginx" not in told.stdout
    assert "CLOSE-WAIT" in told.stdout
    assert "from 2026-11-22T15:04:05.000Z, sample 0" in told.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "last"], "no earlier moment"),
        (["--from", "sample:2", "--to", "sample:0"], "later than --to"),
        (["--from", "soon"], "soon"),
    ],
)
def test_moments_that_are_none_are_a_wrong_use(
    words: list[str], said: str, recording: Path
) -> None:
    done = run("diff", recording, *words)
    assert done.exit_code == 2
    assert said in done.output


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same load for three seconds and for six; in the second an accept queue is full."""
    folder = tmp_path_factory.mktemp("two")
    for name, samples, waiting in (("calm", 4, 0), ("full", 7, 17)):
        writer = Writer(folder / name, host=name)
        for number in range(samples):
            door = tcp(1, "LISTEN", recv_q=waiting, send_q=16, peer_addr=None, peer_port=0)
            moved: Row = {"bytes_sent": 1000 * number, "bytes_received": 0, "total_retrans": 0}
            extra = [client(10 + n) for n in range(8 if waiting else 2)]
            writer.sample(
                [door, tcp(2, **moved), *extra],
                steps=[step("tcp", rows=2 + len(extra))],
                counters=[
                    counter("Tcp.InSegs", 10 * number),
                    counter("TcpExt.ListenOverflows", number if waiting else 0, source="netstat"),
                ],
            )
    return folder / "calm", folder / "full"


def test_two_recordings_are_compared_by_findings_rates_and_averages(
    two: tuple[Path, Path],
) -> None:
    found = asked(*two)
    finding, sockets, overflows = found
    assert (finding["what"], finding["name"]) == ("finding", "accept_queue")
    assert (finding["before"], finding["after"]) == (0, 1)
    assert "accept queue on 127.0.0.1:80" in finding["said"]
    # What moves as fast in both, and as many of, is no difference, however long each is.
    assert (sockets["before"], sockets["after"]) == (2, 8)
    assert (overflows["name"], overflows["before"]) == ("TcpExt.ListenOverflows", 0)
    assert overflows["after"] == pytest.approx(1)


def test_the_first_that_is_named_is_what_is_compared_with(two: tuple[Path, Path]) -> None:
    finding, *_ = asked(*reversed(two))
    assert (finding["before"], finding["after"]) == (1, 0)


def test_a_time_of_two_recordings_is_a_wrong_use(two: tuple[Path, Path]) -> None:
    done = run("diff", *two, "--from", "+1s")
    assert done.exit_code == 2
    assert "compared whole" in done.output
