"""Names of users and interfaces, for whole columns."""

import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recorder.host.names import Interfaces, Users, named_column
from recorder.host.namespaces import Namespaces, interface_names


def nobody(uid: int) -> str:
    raise KeyError(uid)


def uids(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(numbers, np.uint32)


@pytest.fixture
def passwd(tmp_path: Path) -> Path:
    path = tmp_path / "passwd"
    path.write_bytes(
        b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n\xff\xe4:x:7:7::/:\n+::::::\nbroken\n"
    )
    return path


def test_users_of_a_column(passwd: Path) -> None:
    users = Users(passwd, nobody)
    column = users.column(uids(7, 0, 9, 0))
    assert column is not None
    assert column.to_pylist() == ["\\xff\\xe4", "root", None, "root"]
    column = users.column(uids(7, 0, 9, 0), np.array([True, False, True, True]))
    assert column is not None
    assert column.to_pylist() == ["\\xff\\xe4", None, None, "root"]
    column = users.column(np.zeros(1000, np.uint32))
    assert column is not None
    assert (len(column), column.dictionary.to_pylist()) == (1000, ["root"])


def test_a_column_without_any_name_is_none(passwd: Path) -> None:
    users = Users(passwd, nobody)
    assert users.column(uids()) is None
    assert users.column(uids(9, 9)) is None
    assert users.column(uids(9, 10)) is None
    assert users.column(uids(0, 9), np.array([False, True])) is None
    assert users.column(uids(0, 0), np.array([False, False])) is None


def test_a_user_added_later_is_found(passwd: Path) -> None:
    users = Users(passwd, nobody)
    assert users.names([0]) == ["root"]
    with passwd.open("a") as file:
        file.write("late:x:42:42::/:\n")
    os.utime(passwd, (1, 1))  # the clock may be too coarse to tell the two versions apart
    assert users.names([42, 0]) == ["late", "root"]


def test_who_is_not_in_the_file_is_asked_for_once(passwd: Path) -> None:
    asked: list[int] = []

    def ask(uid: int) -> str:
        asked.append(uid)
        if uid == 5:
            raise KeyError(uid)
        return f"user{uid}"

    users = Users(passwd, ask)
    answered = threading.Event()
    users.names([3, 0, 5])
    for _ in range(1000):
        if users.names([3, 0, 5]) == ["user3", "root", None]:
            break
        answered.wait(0.01)
    assert users.names([3, 0, 5]) == ["user3", "root", None]
    assert asked == [3, 5]


def test_a_directory_server_that_does_not_answer_holds_nothing_up(passwd: Path) -> None:
    release = threading.Event()
    begun = threading.Event()

    def ask(uid: int) -> str:
        begun.set()
        release.wait()
        return f"user{uid}"

    users = Users(passwd, ask)
    try:
        for uid in range(100, 1100):  # 50 s, were each waited for
            assert users.names([uid, 0]) == [None, "root"]
        assert begun.wait(10)
    finally:
        release.set()
    for _ in range(1000):
        if users.names([1099]) == ["user1099"]:
            break
        threading.Event().wait(0.01)
    assert users.names([100, 1099]) == ["user100", "user1099"]


def test_the_users_of_this_host() -> None:
    column = Users().column(uids(0, 4_294_967_294))
    assert column is not None
    assert column[0].as_py() == "root"


def test_named_columns_agree_with_a_loop() -> None:
    random = np.random.default_rng(7)
    for width in (1, 2, 300):
        numbers = random.integers(0, width, 5000).astype(np.uint64)
        valid = random.random(5000) < 0.7
        column = named_column(
            numbers, lambda distinct: [None if n % 3 == 1 else str(n) for n in distinct], valid
        )
        assert column is not None
        expected = [
            str(number) if ok and number % 3 != 1 else None
            for number, ok in zip(numbers.tolist(), valid.tolist(), strict=True)
        ]
        assert column.to_pylist() == expected


class Host:
    """Namespaces with interfaces that come and change their names."""

    def __init__(self) -> None:
        self.names: dict[int, dict[int, str] | OSError] = {}
        self.calls: list[list[int]] = []

    def read(self, namespaces: list[int]) -> Sequence[dict[int, str] | OSError]:
        self.calls.append(namespaces)
        found = (self.names[netns] for netns in namespaces)
        return [names if isinstance(names, OSError) else dict(names) for names in found]


@pytest.fixture
def host() -> Host:
    return Host()


BIG = 4_026_532_177


def test_interfaces_by_namespace_and_index(host: Host) -> None:
    host.names = {BIG: {1: "lo", 2: "eth0"}, BIG + 1: {1: "lo", 2: "veth"}}
    interfaces = Interfaces(host.read)
    interfaces.begin()
    netns = np.array([BIG, BIG + 1, BIG, BIG + 1, BIG + 1], np.uint64)
    index = np.array([2, 2, 0, 9, 1], np.uint32)
    column = interfaces.column(netns, index)
    assert column is not None
    assert column.to_pylist() == ["eth0", "veth", None, None, "lo"]
    column = interfaces.column(BIG, index, np.array([True, False, True, True, True]))
    assert column is not None
    assert column.to_pylist() == ["eth0", None, None, None, "lo"]


def test_what_is_bound_to_no_interface_asks_nothing(host: Host) -> None:
    interfaces = Interfaces(host.read)
    interfaces.begin()
    assert interfaces.column(BIG, np.zeros(5, np.uint32)) is None
    assert interfaces.column(BIG, np.zeros(0, np.uint32)) is None
    assert interfaces.column(BIG, np.ones(5, np.uint32), np.zeros(5, bool)) is None
    assert host.calls == []


def test_a_namespace_is_read_once_a_sample_at_most(host: Host) -> None:
    host.names = {BIG: {1: "lo"}}
    interfaces = Interfaces(host.read, refresh=4)
    unknown = np.array([7], np.uint32)
    for sample in range(1, 4):
        interfaces.begin()
        assert interfaces.column(BIG, unknown) is None
        assert interfaces.column(BIG, unknown) is None
        assert host.calls == [[BIG]] * sample
    host.names[BIG] = {7: "new"}
    interfaces.begin()
    column = interfaces.column(BIG, unknown)
    assert column is not None
    assert column.to_pylist() == ["new"]


def test_a_new_name_is_found_within_the_refresh(host: Host) -> None:
    host.names = {BIG: {2: "eth0"}}
    interfaces = Interfaces(host.read, refresh=3)
    seen = []
    for sample in range(7):
        interfaces.begin()
        column = interfaces.column(BIG, np.array([2], np.uint32))
        assert column is not None
        seen += column.to_pylist()
        if sample == 0:
            host.names[BIG] = {2: "wan"}
    assert seen == ["eth0"] * 3 + ["wan"] * 4
    assert len(host.calls) == 3


def test_a_namespace_that_cannot_be_read_keeps_what_is_known(host: Host) -> None:
    host.names = {BIG: {2: "eth0"}, BIG + 1: OSError(1, "denied")}
    interfaces = Interfaces(host.read, refresh=2)
    netns, index = np.array([BIG, BIG + 1], np.uint64), np.array([2, 2], np.uint32)
    for _ in range(5):
        interfaces.begin()
        column = interfaces.column(netns, index)
        assert column is not None
        assert column.to_pylist() == ["eth0", None]
        host.names[BIG] = OSError(2, "gone")


def test_a_forgotten_namespace_is_read_anew(host: Host) -> None:
    host.names = {BIG: {2: "eth0"}}
    interfaces = Interfaces(host.read)
    interfaces.begin()
    assert interfaces.column(BIG, np.array([2], np.uint32)) is not None
    interfaces.forget(BIG)
    host.names = {BIG: {2: "other"}}
    column = interfaces.column(BIG, np.array([2], np.uint32))
    assert column is not None
    assert column.to_pylist() == ["other"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)")
def test_the_interfaces_of_a_real_namespace_and_a_new_name() -> None:
    name = f"sockrec-test-names-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    namespaces = Namespaces(name)
    try:
        ip = ["ip", "-n", name, "link"]
        subprocess.run([*ip, "add", "cable", "type", "veth", "peer", "end"], check=True)
        namespaces.update()
        (namespace,) = namespaces.current

        def read(_: list[int]) -> Sequence[dict[int, str] | OSError]:
            return namespaces.each([namespace], lambda _: interface_names())

        index = namespaces.run(namespace, lambda: {n: i for i, n in interface_names().items()})
        interfaces = Interfaces(read, refresh=2)
        seen = []
        for sample in range(3):
            interfaces.begin()
            column = interfaces.column(namespace.inode, np.array([1, index["cable"]], np.uint32))
            assert column is not None
            seen.append(column.to_pylist())
            if sample == 0:
                subprocess.run([*ip, "set", "cable", "name", "uplink"], check=True)
        assert seen == [["lo", "cable"], ["lo", "cable"], ["lo", "uplink"]]
    finally:
        namespaces.close()
        subprocess.run(["ip", "netns", "del", name], check=True)
