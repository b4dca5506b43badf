"""The text of a real ss, imported, against what it was printed from: a dump, or a recording."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recorder.imports.dump import import_dumps
from recorder.imports.ss_words import ZERO_WHEN_LEFT_OUT
from recorder.schema import SOCKETS
from tests.recorder.support.imported import imported, samples_of, sockets
from tests.recorder.support.recorded import read, record

DUMPS = Path(__file__).resolve().parents[1] / "dumps"
SS = shutil.which("ss")
NETSTAT = shutil.which("netstat")
NOON = 1_704_110_400_000_000
DATE = "Mon Jan  1 12:00:00 UTC 2024\n"

pytestmark = pytest.mark.skipif(SS is None, reason="needs ss")

Row = dict[str, Any]

_HEAD = frozenset(
    "sample sample_time family netid state recv_q send_q local_addr local_port peer_addr "
    "peer_port".split()
)
_BY_OPTION = {
    "o": frozenset({"timer", "expires_ms"}),
    "e": frozenset("cookie inode uid shutdown v6only".split()),
    "m": frozenset(
        "rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops".split()
    ),
    "i": frozenset(
        "cong rto_us rtt_us rttvar_us ato_us snd_mss pmtu rcv_mss advmss snd_cwnd "
        "bytes_sent bytes_acked bytes_received segs_out segs_in data_segs_out data_segs_in "
        "last_data_sent_ms last_data_recv_ms last_ack_recv_ms pacing_rate delivery_rate delivered "
        "busy_time_us unacked tcpi_retrans total_retrans lost rcv_space rcv_ssthresh min_rtt_us "
        "snd_wnd snd_wscale rcv_wscale bbr_bw bbr_min_rtt_us ulp".split()
    ),
}
_MADE_UP = frozenset({"netns", "cgroup", "sacked"})
"""Not compared: a dump has no paths of cgroups, and of a listener ss leaves out sacked."""

_ROUNDED = {"expires_ms": 1000}
"""What ss prints coarser than the kernel tells it."""

_ZERO_WHERE_NOT_MEASURED = ZERO_WHEN_LEFT_OUT | frozenset(
    "rto_us rtt_us rttvar_us ato_us snd_mss pmtu rcv_mss advmss snd_cwnd snd_wscale rcv_wscale "
    "delivery_rate min_rtt_us bbr_bw bbr_min_rtt_us rcv_rtt_us".split()
)
"""What ss leaves out where it is 0, and the import where it is not sure of that."""


def ends(row: Row) -> tuple[object, ...]:
    names = ("netid", "local_addr", "local_port", "peer_addr", "peer_port")
    inode = row["inode"] if row["family"] == "unix" else None
    return (*(row[name] for name in names), inode)


def wanted_of(options: str) -> frozenset[str]:
    """Return the columns that ss prints by these options."""
    both = {"options"} if "i" in options and {"o", "e"} & set(options) else set()
    return _HEAD.union(both, *(_BY_OPTION.get(letter, frozenset()) for letter in options))


def printed(directory: Path, text: str) -> list[Row]:
    """Return the rows that a text gives, None where it says nothing."""
    samples, unread = samples_of(directory, DATE + text)
    assert unread.count == 0, unread.first
    empty = dict.fromkeys(SOCKETS.names)
    return [empty | told.row for each in samples for table in each.tables for told in table.rows]


def unequal(mine: Row, theirs: Row, wanted: frozenset[str]) -> list[str]:
    """Say where an imported row is wrong: it has another value, or lacks one that was printed."""
    wrong = []
    for name, value in theirs.items():
        found = mine[name]
        if found == value or name in _MADE_UP:
            continue
        if found is None and (
            name not in wanted or (name in _ZERO_WHERE_NOT_MEASURED and not value)
        ):
            continue
        both = isinstance(found, int) and isinstance(value, int)
        if name in _ROUNDED and both and 0 <= value - found < _ROUNDED[name]:
            continue
        if name == "uid" and theirs["family"] == "unix":  # not printed
            continue
        if name == "cookie" and "cookie" not in wanted:
            continue
        wrong.append(f"{name}: imported {found!r}, is {value!r}")
    return wrong


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[object, ...], Row]:
    """Return the sockets of a captured dump, imported as such."""
    target = tmp_path_factory.mktemp("dump") / "r"
    import_dumps([DUMPS / "tcp.bin"], target, start_us=NOON, interval_us=None, release=(6, 18))
    return {ends(row): row for row in sockets(target)}


def test_a_dump_has_what_the_kernel_gave(dumped: dict[tuple[object, ...], Row]) -> None:
    rows = list(dumped.values())
    assert len(rows) == 51
    assert Counter(row["state"] for row in rows)["LISTEN"] == 19
    assert all(row["cookie"] and row["rcvbuf"] for row in rows if row["state"] == "ESTAB")
    assert {row["netns"] for row in rows} == {1}
    assert {row["pid"] for row in rows} == {None}


@pytest.mark.parametrize("options", ["-tanoeimO", "-tanoeim", "-tani", "-Htan"])
def test_what_ss_prints_of_a_dump_is_imported_as_the_dump_is(
    options: str, dumped: dict[tuple[object, ...], Row], tmp_path: Path
) -> None:
    assert SS is not None
    environment = {**os.environ, "TCPDIAG_FILE": str(DUMPS / "tcp.bin")}
    text = subprocess.run(
        [SS, options], env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    recording = imported(tmp_path, DATE + text)
    rows = sockets(recording)
    wanted = wanted_of(options)
    assert {ends(row) for row in rows} == dumped.keys()
    wrong = {ends(row): unequal(row, dumped[ends(row)], wanted) for row in rows}
    assert {key: found for key, found in wrong.items() if found} == {}
    if "e" not in options:
        assert len({row["cookie"] for row in rows}) == len(rows)
        assert all(row["cookie"] < 0 for row in rows)


@contextlib.contextmanager
def workload() -> Iterator[None]:
    """Hold sockets of several kinds, with data that waits, and nothing that moves."""
    with contextlib.ExitStack() as held:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            listener = held.enter_context(socket.socket(family))
            listener.bind((address, 0))
            listener.listen(5)
            for number in range(4):
                client = held.enter_context(socket.socket(family))
                client.connect(listener.getsockname())
                if number:
                    server = held.enter_context(listener.accept()[0])
                    server.sendall(b"x" * 1000 * number)
            bound = held.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            bound.bind((address, 0))
            bound.connect(bound.getsockname())
            bound.send(b"waiting")
        for one in socket.socketpair():
            held.enter_context(one)
        named = held.enter_context(socket.socket(socket.AF_UNIX))
        named.bind("\0sockrec import \t test")
        named.listen(3)
        yield


_MOVES = frozenset(
    "last_data_sent_ms last_data_recv_ms last_ack_recv_ms expires_ms owner_time sample_time".split()
)


@pytest.mark.live
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace of its own")
@pytest.mark.parametrize(
    "options", "-anpeimo -Htuxanp -tan -tane -tanm -tani -Htanop -uanpO -tnoemiO".split()
)
def test_what_ss_prints_is_imported_as_it_is_recorded_meanwhile(
    options: str, tmp_path: Path
) -> None:
    assert SS is not None
    until = time.monotonic() + 60
    with workload():
        while True:
            before, after = tmp_path / "before", tmp_path / "after"
            directory = tmp_path / f"{time.monotonic_ns()}"
            directory.mkdir()
            for path in (before, after):
                text = subprocess.run(
                    [SS, options], capture_output=True, text=True, check=True, timeout=60
                ).stdout
                # without it a list of one kind is taken for TCP
                asked = "" if "t" in options else f"# ss {options}\n"
                path.write_text(asked + text)
                if path is before:
                    subprocess.run(
                        record(directory / "r", "-n", "1", "--netns", "current"),
                        check=True,
                        timeout=60,
                    )
            wrong = _differences(directory, before.read_text(), after.read_text(), options)
            if not wrong:
                return
            # what moved meanwhile may stand still the next time
            assert time.monotonic() < until, f"after 60 s of looking: {wrong}"


def _differences(directory: Path, before: str, after: str, options: str) -> list[str]:
    """Say where what both texts have alike is not what was recorded between them."""
    rows = []
    for name, text in (("1", before), ("2", after)):
        (directory / name).mkdir()
        rows.append({ends(row): row for row in printed(directory / name, text)})
    recorded = {ends(row): row for row in read(directory / "r", "sockets").to_pylist()}
    common = rows[0].keys() & rows[1].keys()
    kinds = {kind for kind in ("tcp", "udp") if kind[0] in options} or {"tcp", "udp"}
    listeners = {key for key, row in recorded.items() if row["state"] == "LISTEN"}
    unasked = listeners if "a" not in options else set()
    missed = [key for key in recorded.keys() - common - unasked if key[0] in kinds]
    if missed or len(common) < (16 if "tcp" in kinds else 2):
        return [f"{len(common)} sockets in both texts, not {missed}"]
    wanted = wanted_of(options)
    owner = frozenset({"pid", "fd", "comm", "holders"})
    wrong = []
    for key in sorted(common & recorded.keys(), key=str):
        first, second, row = rows[0][key], rows[1][key], recorded[key]
        still = {n for n in row if first[n] == second[n]} - _MOVES - _OTHERWISE
        # who listens is no holder that ss could name
        held = owner if "p" in options and row["owner_by"] == "fd" else frozenset()
        found = unequal(first, {n: v for n, v in row.items() if n in still}, wanted | held)
        wrong += [f"{key}: {each}" for each in found]
    return wrong


_OTHERWISE = frozenset({"sample", "cookie", "cgroup", "v6only"})
"""Of unix sockets ss prints no cookie; a recording looks up paths that ss does too, but not all."""


@pytest.mark.live
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace of its own")
@pytest.mark.skipif(NETSTAT is None, reason="needs netstat")
def test_netstat_shows_the_sockets_that_ss_does(tmp_path: Path) -> None:
    assert SS is not None
    assert NETSTAT is not None
    until = time.monotonic() + 60
    names = ("netid", "state", "recv_q", "local_addr", "local_port", "peer_addr", "peer_port")
    with workload():
        while True:
            directory = tmp_path / f"{time.monotonic_ns()}"
            seen: list[Counter[tuple[object, ...]]] = []
            for command in ([SS, "-tuan"], [NETSTAT, "-tuanW"], [SS, "-tuan"]):
                text = subprocess.run(
                    command, capture_output=True, text=True, check=True, timeout=60
                ).stdout
                place = directory / str(len(seen))
                place.mkdir(parents=True)
                rows = printed(place, text)
                seen.append(Counter(tuple(row[name] for name in names) for row in rows))
            if seen[0] == seen[1] == seen[2] and seen[0].total() >= 16:
                return
            assert time.monotonic() < until, f"after 60 s of looking: {seen}"
