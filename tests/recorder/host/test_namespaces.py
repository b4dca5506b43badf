"""Network namespaces of real processes and mounts, which come, go and change hands."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recorder.host.namespaces import (
    Namespace,
    NamespaceError,
    Namespaces,
    NamespacesStep,
    interface_names,
)
from tests.recorder.support.owners_child import Child
from tests.workloads.netns import unmount

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)"),
]

UNSHARE = "assert not libc.unshare(0x40000000); answer = os.stat('/proc/self/ns/net').st_ino"
_numbers = itertools.count()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL)


class Named:
    """Makes namespaces with names of their own, and removes what is left of them."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: str | None = None) -> str:
        name = name or f"sockrec-test-{os.getpid()}-{next(_numbers)}"
        ip("netns", "add", name)
        self._names.add(name)
        return name

    def delete(self, name: str) -> None:
        self._names.discard(name)
        ip("netns", "del", name)

    def clear(self) -> None:
        for name in list(self._names):
            self.delete(name)


@pytest.fixture
def named() -> Iterator[Named]:
    made = Named()
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    followed = Namespaces()
    yield followed
    followed.close()


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as child:
        child.run("")
        yield child


def inode_of(path: str | Path) -> int:
    return os.stat(path).st_ino


def inside() -> int:
    return inode_of("/proc/thread-self/ns/net")


def find(namespaces: Namespaces, inode: int) -> Namespace | None:
    return next((n for n in namespaces.current if n.inode == inode), None)


def found(namespaces: Namespaces, inode: int) -> Namespace:
    namespace = find(namespaces, inode)
    assert namespace is not None
    return namespace


def by_name(namespaces: Namespaces, name: str) -> Namespace:
    (namespace,) = [n for n in namespaces.current if name in n.names]
    return namespace


def held() -> set[int]:
    """Return the namespaces this process has a descriptor of."""
    device = os.stat("/proc/self/ns/net").st_dev
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.fstat(int(fd)))
    return {file.st_ino for file in found if file.st_dev == device}


def wait(condition: Callable[[], bool]) -> None:
    """Wait for what the kernel does by and by."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not happen within 30 s"
        time.sleep(0.01)


def changes_of(step: NamespacesStep, inode: int) -> list[tuple[Namespace, Namespace]]:
    return [(old, new) for old, new in step.changed if new.inode == inode]


def test_a_named_namespace_comes_is_entered_and_goes(named: Named, namespaces: Namespaces) -> None:
    namespaces.update()
    name = named.add()
    inode = inode_of(f"/run/netns/{name}")
    step = namespaces.update()
    assert [n for n in step.appeared if n.inode == inode] == [
        Namespace(inode, (name,), None, None, None, home=False, entered=True, why=None)
    ]
    assert namespaces.run(found(namespaces, inode), inside) == inode
    assert inode in held()
    named.delete(name)
    step = namespaces.update()
    assert [n.names for n in step.vanished if n.inode == inode] == [(name,)]
    assert find(namespaces, inode) is None
    assert inode not in held()


def test_home_comes_first_and_is_never_left(named: Named, namespaces: Namespaces) -> None:
    home = inside()
    named.add()
    namespaces.update()
    first, *others = namespaces.current
    assert (first.inode, first.home, first.entered) == (home, True, True)
    assert first.pid is not None
    assert not any(n.home for n in others)
    results = namespaces.each(namespaces.current, lambda n: (n.inode, threading.get_native_id()))
    assert results[0] == (home, threading.get_native_id())
    assert inside() == home


def test_actions_run_in_their_namespaces_in_order(named: Named, namespaces: Namespaces) -> None:
    names = [named.add() for _ in range(3)]
    namespaces.update()
    ours = [by_name(namespaces, name) for name in names]
    asked = [ours[2], ours[0], namespaces.current[0], ours[1], ours[2]]
    assert namespaces.each(asked, lambda _: inside()) == [n.inode for n in asked]
    assert namespaces.run(ours[0], interface_names) == {1: "lo"}


def test_what_fails_in_one_namespace_does_not_touch_the_next(
    named: Named, namespaces: Namespaces
) -> None:
    names = [named.add() for _ in range(3)]
    namespaces.update()
    ours = [by_name(namespaces, name) for name in names]

    def act(namespace: Namespace) -> int:
        if namespace is ours[1]:
            raise ConnectionResetError(104, "on purpose")
        return inside()

    first, failure, last = namespaces.each(ours, act)
    assert (first, last) == (ours[0].inode, ours[2].inode)
    assert isinstance(failure, ConnectionResetError)
    with pytest.raises(ZeroDivisionError):
        namespaces.each(ours, lambda n: 1 // (n is not ours[1]))
    with pytest.raises(ConnectionResetError, match="on purpose"):
        namespaces.run(ours[1], lambda: act(ours[1]))
    assert namespaces.run(ours[2], inside) == ours[2].inode


def test_a_namespace_that_vanished_is_refused(named: Named, namespaces: Namespaces) -> None:
    name = named.add()
    namespaces.update()
    namespace = by_name(namespaces, name)
    named.delete(name)
    namespaces.update()
    with pytest.raises(FileNotFoundError, match="gone"):
        namespaces.run(namespace, inside)


def test_the_thread_takes_no_signal(named: Named, namespaces: Namespaces) -> None:
    name = named.add()
    namespaces.update()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    namespace = by_name(namespaces, name)
    blocked = namespaces.run(namespace, lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []))
    assert blocked >= signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_namespace_is_found_by_its_process(namespaces: Namespaces, child: Child) -> None:
    namespaces.update()
    inode = child.run(UNSHARE)
    (new,) = [n for n in namespaces.update().appeared if n.inode == inode]
    assert (new.pid, new.names, new.entered) == (child.pid, (), True)
    assert new.comm
    assert new.comm.startswith("python")
    assert namespaces.run(new, inside) == inode
    child.kill()
    assert [n.pid for n in namespaces.update().vanished if n.inode == inode] == [child.pid]
    assert inode not in held()


def test_a_namespace_handed_on_to_a_child_stays(namespaces: Namespaces, child: Child) -> None:
    inode = child.run(UNSHARE)
    heir = child.run("answer = os.fork() or signal.pause()")
    namespaces.update()
    assert found(namespaces, inode).pid == child.pid
    os.kill(child.pid, signal.SIGKILL)
    wait(lambda: inhabitants(inode) == [heir])
    step = namespaces.update()
    assert inode not in [n.inode for n in step.vanished]
    assert [(old.pid, new.pid) for old, new in changes_of(step, inode)] == [(child.pid, heir)]


def inhabitants(inode: int) -> list[int]:
    pids = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/net") == f"net:[{inode}]":
                pids.append(int(pid))
    return pids


def test_the_oldest_process_stands_for_a_namespace(
    named: Named, namespaces: Namespaces, child: Child
) -> None:
    path = f"/run/netns/{named.add()}"
    inode = inode_of(path)
    time.sleep(0.02)  # start times have a resolution of 10 ms
    enter = f"assert not libc.setns(os.open({path!r}, os.O_RDONLY), 0x40000000)"
    with Child() as younger:
        younger.run(enter)
        namespaces.update()
        assert found(namespaces, inode).pid == younger.pid
        child.run(enter)
        (change,) = changes_of(namespaces.update(), inode)
        assert (change[0].pid, change[1].pid) == (younger.pid, child.pid)
        assert not changes_of(namespaces.update(), inode)
    child.kill()
    (change,) = changes_of(namespaces.update(), inode)
    assert (change[1].pid, change[1].start_us, change[1].comm) == (None, None, None)


def test_a_process_is_known_by_the_program_it_became(namespaces: Namespaces, child: Child) -> None:
    inode = child.run(UNSHARE)
    namespaces.update()
    child.begin("os.execvp('sleep', ['sleep', '60'])")
    wait(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
    changes = [c for _ in range(12) for c in changes_of(namespaces.update(), inode)]
    assert [new.comm for _, new in changes] == ["sleep"]


def test_a_second_mount_is_a_second_name(
    named: Named, namespaces: Namespaces, tmp_path: Path
) -> None:
    name = named.add()
    inode = inode_of(f"/run/netns/{name}")
    namespaces.update()
    other = tmp_path / "a mount"
    other.touch()
    subprocess.run(["mount", "--bind", f"/run/netns/{name}", other], check=True)
    try:
        (change,) = changes_of(namespaces.update(), inode)
        assert change[1].names == (name, str(other))
        named.delete(name)
        (change,) = changes_of(namespaces.update(), inode)
        assert change[1].names == (str(other),)
        assert namespaces.run(change[1], inside) == inode
    finally:
        unmount(other)
    assert inode in [n.inode for n in namespaces.update().vanished]


def test_others_may_unmount_what_led_to_a_namespace(
    named: Named, namespaces: Namespaces, tmp_path: Path
) -> None:
    name = named.add()
    inode = inode_of(f"/run/netns/{name}")
    namespaces.update()
    assert namespaces.run(found(namespaces, inode), inside) == inode
    unmount(f"/run/netns/{name}")  # not lazily, as ip-netns(8) does
    namespaces.update()
    assert inode not in held()
    assert inode not in [n.inode for n in namespaces.current]


def test_a_mount_that_only_another_process_sees_is_found(child: Child, tmp_path: Path) -> None:
    point = tmp_path / "private"
    point.touch()
    namespaces = Namespaces(sweep=3)
    try:
        with Child() as maker:
            inode = maker.run(UNSHARE)
            child.run(
                "assert not libc.unshare(0x20000)\n"
                "assert not libc.mount(b'none', b'/', None, 1 << 18 | 1 << 14, None)\n"
                f"assert not libc.mount(b'/proc/{maker.pid}/ns/net', {os.fsencode(point)!r}, None,"
                " 1 << 12, None)"
            )
        steps = [namespaces.update() for _ in range(4)]
        (new,) = [n for step in steps for n in step.appeared if n.inode == inode]
        assert (new.names, new.pid, new.entered) == ((str(point),), None, True)
        child.kill()
        assert inode in [n.inode for n in namespaces.update().vanished]
    finally:
        namespaces.close()


def test_a_copy_of_our_mounts_keeps_nothing(named: Named, child: Child) -> None:
    child.run(
        "assert not libc.unshare(0x20000)\n"
        "assert not libc.mount(b'none', b'/', None, 1 << 19 | 1 << 14, None)  # MS_SLAVE"
    )
    name = named.add()
    inode = inode_of(f"/run/netns/{name}")
    assert str(inode) in Path(f"/proc/{child.pid}/mountinfo").read_text()
    namespaces = Namespaces()
    try:
        namespaces.update()
        assert found(namespaces, inode).names == (name,)
        named.delete(name)
        assert inode in [n.inode for n in namespaces.update().vanished]
    finally:
        namespaces.close()


def test_a_process_whose_first_thread_ended_is_still_in_its_namespace(
    namespaces: Namespaces, child: Child
) -> None:
    inode = child.run(UNSHARE)
    child.run("threading.Thread(target=idle).start()")
    namespaces.update()
    child.begin("libc.pthread_exit(None)")
    stat = Path(f"/proc/{child.pid}/stat")
    wait(lambda: b") Z " in stat.read_bytes())
    step = namespaces.update()
    assert inode not in [n.inode for n in step.vanished]
    assert found(namespaces, inode).pid == child.pid


def test_root_enters_the_namespace_of_another_user_namespace(namespaces: Namespaces) -> None:
    with Child() as child:
        child.run("")
        if child.run("answer = libc.unshare(0x10000000 | 0x40000000)"):
            pytest.skip("needs user namespaces")
        inode = inode_of(f"/proc/{child.pid}/ns/net")
        namespaces.update()
        assert found(namespaces, inode).entered
        assert namespaces.run(found(namespaces, inode), inside) == inode


def test_a_namespace_dies_once_it_vanished(named: Named, namespaces: Namespaces) -> None:
    """Seen by the other end of a cable, which goes with the namespace its end is in."""
    near, far = named.add(), named.add()
    inode = inode_of(f"/run/netns/{far}")
    ip("-n", near, "link", "add", "cable", "type", "veth", "peer", "end", "netns", far)
    namespaces.update()
    here = by_name(namespaces, near)
    assert "cable" in namespaces.run(here, interface_names).values()
    assert namespaces.run(by_name(namespaces, far), inside) == inode  # the thread stays in it
    named.delete(far)
    time.sleep(0.1)
    assert "cable" in namespaces.run(here, interface_names).values()
    namespaces.run(here, int)
    namespaces.update()
    wait(lambda: "cable" not in namespaces.run(here, interface_names).values())


def test_the_thread_keeps_no_namespace_alive(named: Named, namespaces: Namespaces) -> None:
    near, far = named.add(), named.add()
    ip("-n", near, "link", "add", "cable", "type", "veth", "peer", "end", "netns", far)
    namespaces.update()
    namespaces.run(by_name(namespaces, far), inside)  # the thread stays in it
    named.delete(far)
    namespaces.update()
    show = ["ip", "-n", near, "link", "show", "cable"]
    wait(lambda: subprocess.run(show, capture_output=True).returncode != 0)


def test_none_of_200_that_come_and_go_is_missed(named: Named, namespaces: Namespaces) -> None:
    started = finished = 0
    due: list[str] = []

    def come_and_go() -> None:
        for number in range(200):
            name = named.add()
            seen_by = started + 1  # the first update that begins after it was there
            if number % 2:
                while finished < seen_by + 1:
                    time.sleep(0.001)
            if finished >= seen_by:
                due.append(name)
            named.delete(name)

    before = held()
    thread = threading.Thread(target=come_and_go, daemon=True)
    thread.start()
    names: set[str] = set()
    inodes: set[int] = set()
    while thread.is_alive():
        started += 1
        step = namespaces.update()
        for namespace in [*step.appeared, *(new for _, new in step.changed)]:
            if not namespace.home and namespace.names:
                names.update(namespace.names)
                inodes.add(namespace.inode)
        ours = [n for n in namespaces.current if not n.home and n.entered]
        for namespace, outcome in zip(ours, namespaces.each(ours, lambda _: inside()), strict=True):
            assert outcome == namespace.inode
        finished = started
    thread.join(60)
    assert len(due) >= 100
    assert set(due) <= names
    namespaces.update()
    left = {name for namespace in namespaces.current for name in namespace.names}
    assert not left & set(due)
    namespaces.close()
    assert held() == before


def test_closing_gives_every_descriptor_and_the_thread_back(named: Named) -> None:
    def threads() -> int:
        return sum(thread.name == "namespaces" for thread in threading.enumerate())

    before = sorted(os.listdir("/proc/self/fd")), threads()
    name = named.add()
    namespaces = Namespaces()
    namespaces.update()
    namespaces.run(by_name(namespaces, name), inside)
    assert threads() == before[1] + 1
    namespaces.close()
    assert (sorted(os.listdir("/proc/self/fd")), threads()) == before


def test_only_the_selected_are_followed(named: Named, child: Child, tmp_path: Path) -> None:
    first, second, _ = [named.add() for _ in range(3)]
    inode = child.run(UNSHARE)
    for select, expected in (
        ("current", [inside()]),
        (first, [inode_of(f"/run/netns/{first}")]),
        (f"/run/netns/{second}", [inode_of(f"/run/netns/{second}")]),
        (str(child.pid), [inode]),
        ([first, str(child.pid), "current"], [inside(), inode_of(f"/run/netns/{first}"), inode]),
        ([str(os.getpid())], [inside()]),
    ):
        namespaces = Namespaces(select)
        try:
            for _ in range(2):
                namespaces.update()
            assert sorted(n.inode for n in namespaces.current) == sorted(expected)
            assert namespaces.current[0].home == (inside() in expected)
        finally:
            namespaces.close()


def test_a_name_is_followed_to_the_namespace_it_means_now(named: Named) -> None:
    name = named.add()
    namespaces = Namespaces(name)
    try:
        namespaces.update()
        (old,) = namespaces.current
        named.delete(name)
        assert namespaces.update().vanished == [old]
        assert namespaces.current == []
        named.add(name)
        (new,) = namespaces.update().appeared
        assert new.inode == inode_of(f"/run/netns/{name}")
        assert namespaces.run(new, inside) == new.inode
    finally:
        namespaces.close()


def test_a_process_whose_namespace_went_is_not_mixed_up_with_the_next(child: Child) -> None:
    inode = child.run(UNSHARE)
    namespaces = Namespaces(str(child.pid))
    try:
        namespaces.update()
        child.kill()
        assert [n.inode for n in namespaces.update().vanished] == [inode]
        with Child() as other:
            other.run(UNSHARE)  # the kernel gives it the lowest free number: the old one
            namespaces.update()
            assert namespaces.current == []
    finally:
        namespaces.close()


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("no-such-name", "no-such-name: there is no such network namespace"),
        ("/run/no/such", "/run/no/such: there is no such network namespace"),
        ("4194304", "process 4194304: there is no such process"),
        ("/proc/self/ns/mnt", "/proc/self/ns/mnt: not a network namespace"),
        ("/proc/self/status", "/proc/self/status: not a network namespace"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(select: str, message: str) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(NamespaceError, match=message):
        Namespaces(["current", select])
    assert sorted(os.listdir("/proc/self/fd")) == before


def report(script: str, *arguments: str) -> Any:
    """Run a script that must not be this process; return what it prints as JSON."""
    begin = "import json, os, resource, sys\nfrom recorder.host.namespaces import *\n"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", begin + script, *arguments],
        cwd=root,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def test_without_privileges_only_home_is_entered(named: Named) -> None:
    name = named.add()
    home, other, again, unseen = report(
        """
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
namespaces = Namespaces()
step = namespaces.update()
again = namespaces.update()
home = namespaces.current[0]
(other,) = [n for n in namespaces.current if sys.argv[1] in n.names]
inside = lambda: os.stat('/proc/thread-self/ns/net').st_ino
assert namespaces.run(home, inside) == home.inode
try:
    namespaces.run(other, inside)
    raise AssertionError
except PermissionError:
    pass
assert step.denied > 0
print(json.dumps([[home.home, home.entered], [other.entered, other.why],
                  again.unseen, step.unseen]))
""",
        name,
    )
    assert home == [True, True]
    assert other == [False, "needs root or CAP_SYS_ADMIN"]
    assert again == []
    assert {
        "what": "sockets of other network namespaces",
        "why": "needs root or CAP_SYS_ADMIN",
    } in unseen
    assert {
        "what": "network namespaces of other users' processes",
        "why": "needs CAP_SYS_PTRACE over them",
    } in unseen


def test_without_descriptors_a_namespace_is_listed_and_entered_later(named: Named) -> None:
    names = [named.add() for _ in range(8)]
    few, later = report(
        """
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (74, hard))
ours = lambda: [n for n in namespaces.current if {*n.names} & {*sys.argv[1:]}]
namespaces = Namespaces(sys.argv[1:])
namespaces.update()
few = [[n.entered, n.why] for n in ours()]
assert raise_descriptor_limit() == 74
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
step = namespaces.update()
assert all(new.entered and not old.entered for old, new in step.changed)
later = [n.entered for n in ours()]
assert namespaces.each(ours(), lambda n: n.inode == os.stat('/proc/thread-self/ns/net').st_ino)
print(json.dumps([few, later]))
""",
        *names,
    )
    assert len(few) == 8
    assert [True, None] in few
    assert [False, "no descriptor was left; raise the limit (ulimit -n)"] in few
    assert later == [True] * 8


def test_with_no_descriptor_at_all_nothing_is_raised_or_lost(named: Named) -> None:
    name = named.add()
    before, after = report(
        """
def ours():
    return [[n.entered, n.pid] for n in namespaces.current if n.home or sys.argv[1] in n.names]
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
namespaces = Namespaces(sweep=2)
namespaces.update()
before = ours()
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for _ in range(3):
    namespaces.update()
after = ours()
for descriptor in taken:
    os.close(descriptor)
print(json.dumps([before, after]))
""",
        name,
    )
    assert after == before
    assert [entered for entered, _ in after] == [True, True]
