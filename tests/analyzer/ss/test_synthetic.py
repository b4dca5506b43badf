"""The view against the real ss on messages that no live socket can be made to give.

The same bytes go to ss by TCPDIAG_FILE and through the decoder to the view: every byte has to be
the same, the order of lines too.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.ss.layout import Layout
from analyzer.ss.view import fields
from analyzer.ss.words import Names, Options
from recorder.diag.inet_diag import InetDiag
from recorder.schema import SOCKETS, public_schema
from tests.recorder.support import messages, strategies
from tests.recorder.support.messages import InetMessage, datagrams
from tests.recorder.support.rows import decode
from tests.recorder.support.ss_oracle import Oracle

# What is in the file ss prints, asked for or not, so that -i and -m go together.
OPTIONS = {
    "-ntaimeo": "info memory extended timers numeric",
    "-taim": "info memory",
    "-tano": "numeric timers",
    "-tane": "numeric extended",
    "-taimeO --tos --inet-sockopt": "info memory extended oneline tos sockopt",
    "-tan --tos --inet-sockopt": "numeric tos sockopt",
}


@pytest.fixture(scope="module")
def command(oracle: Oracle) -> str:
    if oracle.release != (6, 1):
        pytest.skip("needs ss of iproute2 6.1, which is imitated")
    return oracle.command


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tcpdiag") / "dump"


def ours(sent: list[InetMessage], names: str) -> str:
    rows, _, _ = decode(datagrams(sent), InetDiag("tcp", (6, 18)))
    known = public_schema(SOCKETS)
    table = pa.Table.from_pylist([row | {"netns": 1} for row in rows], schema=known)
    options = Options(**dict.fromkeys(names.split(), True))
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    shown = fields(table, options, Names(options, {1: (low, high)}))
    return "".join(Layout(hidden=[0]).text(shown))


def theirs(command: str, file: Path, sent: list[InetMessage], words: str) -> str:
    file.write_bytes(messages.dump(sent))
    environment = {key: text for key, text in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run(
        [command, *words.split()],
        capture_output=True,
        env=environment | {"TCPDIAG_FILE": str(file)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def sent_messages() -> st.SearchStrategy[list[InetMessage]]:
    """Return dumps without interfaces and cgroups, which this machine would name."""

    def nameless(one: InetMessage) -> InetMessage:
        return replace(one, row={**one.row, "interface": None, "cgroup_id": None})

    return st.lists(strategies.tcp_messages().map(nameless), min_size=1, max_size=12)


@pytest.mark.parametrize("words", OPTIONS)
def test_every_state_timer_and_word_is_printed_as_ss_prints_it(
    command: str, file: Path, words: str
) -> None:
    @settings(max_examples=15)
    @given(sent_messages())
    def check(sent: list[InetMessage]) -> None:
        assert ours(sent, OPTIONS[words]) == theirs(command, file, sent, words)

    check()
