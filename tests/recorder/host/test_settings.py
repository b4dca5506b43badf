"""The sysctls: which namespace has which, and that only changes are stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.host.facts import facts
from recorder.host.settings import (
    HOST,
    HOST_SYSCTLS,
    NAMESPACE_SYSCTLS,
    Changed,
    Settings,
    columns,
    read_host,
    read_namespace,
)
from recorder.schema import SETTINGS
from recorder.store.journal import BatchMaker
from tests.workloads import netns

PRINT = """
import json
from recorder.host.settings import read_namespace, read_host
print(json.dumps([read_namespace(), read_host()]))
"""


def test_the_kernel_of_this_machine_is_understood() -> None:
    values = read_namespace()
    low, high = values["net.ipv4.ip_local_port_range"].split(" ")
    assert 0 < int(low) < int(high) < 65536
    assert int(read_host()["fs.nr_open"]) > 0
    assert facts()["sysctl"].items() >= values.items()


def test_no_sysctl_is_listed_twice() -> None:
    names = [*NAMESPACE_SYSCTLS, *HOST_SYSCTLS]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(netns.lacking() is not None, reason=str(netns.lacking()))
def test_a_namespace_shows_its_own_and_none_of_the_host() -> None:
    import json

    with netns.namespace() as name:
        setting = "net.ipv4.tcp_fin_timeout"
        other = str(int(read_namespace()[setting]) + 1)
        subprocess.run(netns.inside(name, "sysctl", "-qw", f"{setting}={other}"), check=True)
        done = subprocess.run(
            netns.inside(name, sys.executable, "-c", PRINT), capture_output=True, check=True
        )
    values, host = json.loads(done.stdout)
    assert values.keys() == read_namespace().keys()
    assert values[setting] == other
    assert not [n for n in host if n.startswith("net.")]


def test_missing_files_are_left_out_and_blanks_are_one(tmp_path: Path) -> None:
    assert read_namespace(tmp_path) == read_host(tmp_path) == {}
    directory = tmp_path / "sys/net/ipv4"
    directory.mkdir(parents=True)
    (directory / "tcp_rmem").write_bytes(b"4096\t131072\t6291456\n")
    (directory / "ip_local_reserved_ports").write_bytes(b"\n")
    assert read_namespace(tmp_path) == {
        "net.ipv4.ip_local_reserved_ports": "",
        "net.ipv4.tcp_rmem": "4096 131072 6291456",
    }


def test_missing_names_what_no_namespace_has_shown() -> None:
    settings = Settings()
    settings.changed(HOST, dict.fromkeys(HOST_SYSCTLS, "1"))
    settings.changed(5, dict.fromkeys(NAMESPACE_SYSCTLS[1:], "1"))
    assert settings.missing() == [NAMESPACE_SYSCTLS[0]]
    settings.changed(6, {NAMESPACE_SYSCTLS[0]: "1"})
    assert settings.missing() == []


def test_rows_of_several_namespaces_make_one_batch() -> None:
    changes: list[tuple[int, Changed]] = [
        (5, [("a", "1"), ("b", None)]),
        (6, []),
        (0, [("a", "2")]),
    ]
    rows = sum(len(changed) for _, changed in changes)
    batch = BatchMaker(SETTINGS).make(rows, columns(changes))
    batch.validate(full=True)
    assert [tuple(row[n] for n in ("netns", "name", "value")) for row in batch.to_pylist()] == [
        *[(5, "a", "1"), (5, "b", None), (0, "a", "2")]
    ]
    assert BatchMaker(SETTINGS).make(0, columns([])).num_rows == 0


READING = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "1", "2"]))


@given(st.lists(st.tuples(st.sampled_from([0, 7]), READING)))
def test_the_stored_changes_give_back_every_reading(
    steps: list[tuple[int, dict[str, str]]],
) -> None:
    settings = Settings()
    held: dict[int, dict[str, str]] = {0: {}, 7: {}}
    for number, values in steps:
        for name, value in settings.changed(number, values):
            if value is None:
                del held[number][name]
            else:
                held[number][name] = value
        assert held[number] == values
        assert settings.changed(number, values) == []


def test_a_namespace_that_was_forgotten_is_new() -> None:
    settings = Settings()
    assert settings.changed(5, {"a": "1"}) == [("a", "1")]
    settings.forget(5)
    assert settings.changed(5, {"a": "1"}) == [("a", "1")]
