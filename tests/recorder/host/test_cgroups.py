"""Cgroups: what real paths say, and the identities of directories made below the real mount."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from recorder.host.cgroups import Cgroups, Origin, describe, of_process
from recorder.host.procfs import ProcessDirectory

A = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
B = "a7638fe3934b37419cc56bca73465a02b354ba6e98e10272542d84eb2014dd62"
POD = "8dbc5577-d0e2-4706-8787-57d52c03ddf2"
POD_ = POD.replace("-", "_")
STATIC = "7dbd1f2e3c5a4d9db8d4d8ab5a6b7c8d"
POD_SLICE = f"kubepods-burstable-pod{POD_}.slice"
KUBEPODS = "/kubepods.slice/kubepods-burstable.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"

PATHS = [
    ("/", Origin()),
    ("/init.scope", Origin("init.scope")),
    ("/system.slice", Origin(None, "system.slice")),
    ("/system.slice/nginx.service", Origin("nginx.service", "system.slice")),
    (
        "/system.slice/system-getty.slice/getty@tty1.service",
        Origin("getty@tty1.service", "system-getty.slice"),
    ),
    (
        r"/system.slice/system-postgresql\x2dmain.slice/postgresql@16\x2dmain.service",
        Origin("postgresql@16-main.service", "system-postgresql-main.slice"),
    ),
    (r"/system.slice/caf\xc3\xa9.service", Origin("café.service", "system.slice")),
    ("/system.slice/docker.socket", Origin("docker.socket", "system.slice")),
    (r"/system.slice/mnt-data\x20set.mount", Origin("mnt-data set.mount", "system.slice")),
    (
        "/user.slice/user-1000.slice/session-3.scope",
        Origin("session-3.scope", "user-1000.slice"),
    ),
    (f"{USER}/init.scope", Origin("init.scope", "user-1000.slice")),
    (f"{USER}/app.slice/syncthing.service", Origin("syncthing.service", "user-1000.slice")),
    (
        rf"{USER}/app.slice/app-gnome-org.gnome.Terminal\x2d2112.scope",
        Origin("app-gnome-org.gnome.Terminal-2112.scope", "user-1000.slice"),
    ),
    # docker
    (
        f"/system.slice/docker-{A}.scope",
        Origin(f"docker-{A}.scope", "system.slice", "docker", A),
    ),
    (f"/docker/{A}", Origin(runtime="docker", container=A)),
    (f"/docker/{A}/docker/{B}", Origin(runtime="docker", container=B)),
    (
        f"/docker/{A}/system.slice/cron.service",
        Origin("cron.service", "system.slice", "docker", A),
    ),
    (
        f"{USER}/user.slice/docker-{A}.scope",
        Origin(f"docker-{A}.scope", "user-1000.slice", "docker", A),
    ),
    (f"/actions_job/{A}", Origin(container=A)),
    (f"/docker/{A}.scope", Origin(f"{A}.scope", None, "docker", A)),
    (f"/system.slice:docker:{A}", Origin(runtime="docker", container=A)),
    (
        "/system.slice/system.slice:docker:jvifp9a6b1lxa1kuw8bwfcovf",
        Origin(None, "system.slice", "docker", "jvifp9a6b1lxa1kuw8bwfcovf"),
    ),
    (
        "/docker/buildkit/jvifp9a6b1lxa1kuw8bwfcovf",
        Origin(runtime="docker", container="jvifp9a6b1lxa1kuw8bwfcovf"),
    ),
    (
        f"/ecstasks.slice/ecstasks-{STATIC}.slice/docker-{A}.scope",
        Origin(f"docker-{A}.scope", f"ecstasks-{STATIC}.slice", "docker", A),
    ),
    (f"/ecs/{POD}", Origin()),
    (f"/ecs/{POD}/{A}", Origin(runtime="docker", container=A)),
    (
        "/ecs/55091c13-b8cf-4801-b527-f4601742204d/432624d2150b349fe35ba397284dea788c2bf66b",
        Origin(),
    ),
    (f"/ecs/{STATIC}/{STATIC}-3447317", Origin(None, None, "docker", f"{STATIC}-3447317")),
    (f"/ecs/{STATIC}/{A}", Origin(runtime="docker", container=A)),
    # podman
    (
        f"/machine.slice/libpod-{A}.scope",
        Origin(f"libpod-{A}.scope", "machine.slice", "podman", A),
    ),
    (
        f"/machine.slice/libpod-{A}.scope/container",
        Origin(f"libpod-{A}.scope", "machine.slice", "podman", A),
    ),
    (
        f"/machine.slice/libpod-conmon-{A}.scope",
        Origin(f"libpod-conmon-{A}.scope", "machine.slice", "podman", A),
    ),
    (
        f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container",
        Origin(f"libpod-{A}.scope", f"machine-libpod_pod_{B}.slice", "podman", A),
    ),
    (
        f"{USER}/user.slice/libpod-{A}.scope/container",
        Origin(f"libpod-{A}.scope", "user-1000.slice", "podman", A),
    ),
    (f"/libpod_parent/libpod-{A}", Origin(runtime="podman", container=A)),
    (
        f"/system.slice/web.service/libpod-payload-{A}",
        Origin("web.service", "system.slice", "podman", A),
    ),
    (
        f"{USER}/user.slice/libpod-{A}.scope/container/system.slice/httpd.service",
        Origin("httpd.service", "user-1000.slice", "podman", A),
    ),
    (f"/libpod_parent/{A}", Origin(runtime="podman", container=A)),
    (
        f"{USER}/user.slice/podman-22679.scope/{A}",
        Origin("podman-22679.scope", "user-1000.slice", "podman", A),
    ),
    # containerd
    (
        f"{KUBEPODS}/{POD_SLICE}/cri-containerd-{A}.scope",
        Origin(f"cri-containerd-{A}.scope", POD_SLICE, "containerd", A, POD),
    ),
    (
        f"/system.slice/containerd.service/{POD_SLICE}:cri-containerd:{A}",
        Origin("containerd.service", "system.slice", "containerd", A, POD),
    ),
    (
        f"/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{A}.scope",
        Origin(f"cri-containerd-{A}.scope", f"kubepods-pod{STATIC}.slice", "containerd", A, STATIC),
    ),
    (
        f"/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-{POD_SLICE}"
        f"/cri-containerd-{A}.scope",
        Origin(f"cri-containerd-{A}.scope", f"kubelet-{POD_SLICE}", "containerd", A, POD),
    ),
    (
        f"/system.slice/nerdctl-{A}.scope",
        Origin(f"nerdctl-{A}.scope", "system.slice", "containerd", A),
    ),
    (f"/default/{A}", Origin(runtime="containerd", container=A)),
    (f"/k8s.io/{A}", Origin(runtime="containerd", container=A)),
    (f"/{POD_SLICE}:cri-containerd:{A}", Origin(None, None, "containerd", A, POD)),
    (
        f"{KUBEPODS}/{POD_SLICE}/cri-containerd-{A}",
        Origin(None, POD_SLICE, "containerd", A, POD),
    ),
    # cri-o
    (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{POD_}.slice"
        f"/crio-{A}.scope",
        Origin(f"crio-{A}.scope", f"kubepods-besteffort-pod{POD_}.slice", "cri-o", A, POD),
    ),
    (
        f"{KUBEPODS}/{POD_SLICE}/crio-{A}.scope/container",
        Origin(f"crio-{A}.scope", POD_SLICE, "cri-o", A, POD),
    ),
    (
        f"{KUBEPODS}/{POD_SLICE}/crio-conmon-{A}.scope",
        Origin(f"crio-conmon-{A}.scope", POD_SLICE, "cri-o", A, POD),
    ),
    (f"/kubepods/burstable/pod{POD}/crio-{A}", Origin(None, None, "cri-o", A, POD)),
    (f"/../crio-{A}.scope", Origin(f"crio-{A}.scope", None, "cri-o", A)),
    # kubelet with the cgroupfs driver: the path does not tell the runtime
    (f"/kubepods/burstable/pod{POD}/{A}", Origin(None, None, None, A, POD)),
    (f"/kubepods/pod{POD}/{A}", Origin(None, None, None, A, POD)),
    (f"/kubepods/besteffort/pod{STATIC}/{A}", Origin(None, None, None, A, STATIC)),
    (f"/../../../burstable/pod{POD}/{A}", Origin(None, None, None, A, POD)),
    (f"/kubepods/besteffort/pod{POD}/{A}/kube-proxy", Origin(None, None, None, A, POD)),
    (
        f"/kubepods/besteffort/pod{POD}/15aa6e53-b09a-40c7-8558-c6c31e36c88a",
        Origin(None, None, None, "15aa6e53-b09a-40c7-8558-c6c31e36c88a", POD),
    ),
    (f"{KUBEPODS}/{POD_SLICE}", Origin(None, POD_SLICE, None, None, POD)),
    (
        f"{KUBEPODS}/{POD_SLICE}/docker-{A}.scope",
        Origin(f"docker-{A}.scope", POD_SLICE, "docker", A, POD),
    ),
    ("/system.slice/podinfo.service", Origin("podinfo.service", "system.slice")),
    # lxc
    ("/lxc/web1", Origin(runtime="lxc", container="web1")),
    ("/lxc.payload.web1", Origin(runtime="lxc", container="web1")),
    (
        "/lxc.payload.web1/system.slice/nginx.service",
        Origin("nginx.service", "system.slice", "lxc", "web1"),
    ),
    ("/lxc.payload/web1/init.scope", Origin("init.scope", None, "lxc", "web1")),
    ("/lxc.monitor.web1", Origin(runtime="lxc", container="web1")),
    (
        "/lxc/101/ns/system.slice/ssh.service",
        Origin("ssh.service", "system.slice", "lxc", "101"),
    ),
    (f"/lxc.payload.dock/docker/{A}", Origin(runtime="docker", container=A)),
    ("/lxc.payload.my-box_1/.lxc", Origin(runtime="lxc", container="my-box_1")),
    ("/user/1000.user/3.session/lxc/web1", Origin(runtime="lxc", container="web1")),
    ("/machine/web.libvirt-lxc", Origin(runtime="lxc", container="web")),
    ("/machine/vm.libvirt-qemu/emulator", Origin()),
    # systemd-nspawn and libvirt
    (
        "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
        Origin("nginx.service", "machine.slice", "systemd-nspawn", "web"),
    ),
    (
        r"/machine.slice/machine-my\x2dweb.scope",
        Origin("machine-my-web.scope", "machine.slice", "systemd-nspawn", "my-web"),
    ),
    (
        r"/machine.slice/machine-lxc\x2d4242\x2dweb.scope",
        Origin("machine-lxc-4242-web.scope", "machine.slice", "lxc", "web"),
    ),
    (
        r"/machine.slice/machine-lxc\x2dweb.scope",
        Origin("machine-lxc-web.scope", "machine.slice", "lxc", "web"),
    ),
    (
        "/tenants.slice/machine-web.scope/payload",
        Origin("machine-web.scope", "tenants.slice", "systemd-nspawn", "web"),
    ),
    (
        r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
        Origin("machine-qemu-1-vm.scope", "machine.slice"),
    ),
    # kata, rkt, Cloud Foundry's garden, Mesos and Titus
    (f"/kubepods/burstable/pod{POD}/kata_{A}", Origin(None, None, "kata", A, POD)),
    (f"/kata_overhead/{A}", Origin(runtime="kata", container=A)),
    (f"/kata_overhead/kubepods/pod{POD}/{A}", Origin(None, None, "kata", A, POD)),
    (f"/vc/{A}", Origin(runtime="kata", container=A)),
    (
        rf"/machine.slice/machine-rkt\x2d{POD}.scope/system.slice/web.service",
        Origin("web.service", "machine.slice", "rkt", POD),
    ),
    (
        r"/machine.slice/machine-rkt\x2dbfb7d57e\x2d80ff\x2d4ef8\x2db602\x2d9b907b3f3a38.scope",
        Origin(
            "machine-rkt-bfb7d57e-80ff-4ef8-b602-9b907b3f3a38.scope",
            "machine.slice",
            "rkt",
            "bfb7d57e-80ff-4ef8-b602-9b907b3f3a38",
        ),
    ),
    (
        "/garden/6f265890-5165-7fab-6b52-18d1",
        Origin(runtime="garden", container="6f265890-5165-7fab-6b52-18d1"),
    ),
    (
        "/system.slice/garden.service/garden/6f265890-5165-7fab-6b52-18d1",
        Origin("garden.service", "system.slice", "garden", "6f265890-5165-7fab-6b52-18d1"),
    ),
    (
        "/garden/good/6f265890-5165-7fab-6b52-18d1",
        Origin(runtime="garden", container="6f265890-5165-7fab-6b52-18d1"),
    ),
    ("/garden/bad", Origin()),
    (f"/uuid/{POD}", Origin(container=POD)),
    (f"/titus/{POD}", Origin(runtime="titus", container=POD)),
    (f"/mesos/{POD}", Origin(runtime="mesos", container=POD)),
    (
        f"/mesos/{POD}/mesos/077d75a1-d7b6-4e55-8114-13f925fe4f49",
        Origin(runtime="mesos", container="077d75a1-d7b6-4e55-8114-13f925fe4f49"),
    ),
    (f"/mesos/{POD}/kubepods/besteffort/pod{STATIC}/{A}", Origin(None, None, None, A, STATIC)),
    ("/mesos/agent", Origin()),
    (
        f"/containers.slice/titus-executor@default__{POD}.service",
        Origin(f"titus-executor@default__{POD}.service", "containers.slice", "titus", POD),
    ),
    # names that systemd escapes, and names that it refuses
    ("/system.slice/_cpu.service", Origin("cpu.service", "system.slice")),
    ("/system.slice/__foobar.service", Origin("_foobar.service", "system.slice")),
    ("/_cpu.slice/web.service", Origin("web.service", "cpu.slice")),
    ("/system.slice/getty@.service", Origin(None, "system.slice")),
    ("/system.slice/getty####@tty6.service/payload", Origin(None, "system.slice")),
    ("/system.slice/web.service/.service", Origin("web.service", "system.slice")),
    (f"/system.slice/{'a' * 248}.service", Origin(None, "system.slice")),
]


@pytest.mark.parametrize(("path", "origin"), PATHS, ids=[path for path, _ in PATHS])
def test_a_path_says_what_made_it(path: str, origin: Origin) -> None:
    assert describe(path) == origin


DATA = Path(__file__).parent / "data"
DIND = "a51a9f7d073f848e7fc59e56e8f11524f330a2175a4ed26327da2dfe0d280"

PROCESSES = {
    "hybrid-datadog-dind": Origin(
        None, None, "containerd", f"{DIND}15e", "a5ea884f-9e60-4912-bd62-fef9a31db47a"
    ),
    "hybrid-datadog-v1": Origin(
        None, None, "containerd", f"{DIND}15f", "15513b48-e7a5-48fc-b9e3-92f713f36504"
    ),
    "hybrid-docker-ubuntu": Origin(
        runtime="docker",
        container="f3d5e524768348feffab6658b953af06f8cce5141d605b1d2004845d2230653e",
    ),
    "long-4315": Origin(
        "cri-containerd-21473fb59dd89a9b9cff0ad8a1ceb82168feb3fc0ea41055565c26bd634bb4bd.scope",
        "system.slice",
        "containerd",
        "21473fb59dd89a9b9cff0ad8a1ceb82168feb3fc0ea41055565c26bd634bb4bd",
        "33333333-4444-5555-6666-777777777777",
    ),
    "v1-nope": Origin(
        runtime="docker",
        container="34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376",
    ),
}


@pytest.mark.parametrize(("name", "origin"), PROCESSES.items(), ids=PROCESSES)
def test_the_container_of_a_process_is_told_by_any_hierarchy(name: str, origin: Origin) -> None:
    path, found = of_process((DATA / f"{name}.cgroup").read_bytes())
    assert found == origin
    assert path is not None
    assert describe(path).container == origin.container


def test_a_cgroup_that_is_gone_has_the_name_it_had() -> None:
    """The kernel says so in the path, for as long as a process is left in it."""
    text = f"0::/system.slice/docker-{A}.scope (deleted)\n".encode()
    path, origin = of_process(text)
    assert path == f"/system.slice/docker-{A}.scope"
    assert origin == Origin(f"docker-{A}.scope", "system.slice", "docker", A)


def test_the_daemon_of_a_hybrid_host_tells_the_runtime() -> None:
    pods = f"4:memory:/kubepods/burstable/pod{POD}/{A}\n1:name=systemd:/kubepods/pod{POD}/{A}\n"
    for unit, runtime in (("k3s-agent", "containerd"), ("crio", "cri-o"), ("sshd", None)):
        _, origin = of_process(f"{pods}0::/system.slice/{unit}.service\n".encode())
        assert origin == Origin(None, None, runtime, A, POD)


def test_a_process_of_mesos_is_in_its_unit_too() -> None:
    """Two hierarchies name the container, the others the session of who began it."""
    text = (
        b"11:devices:/user.slice/user-0.slice/session-2.scope\n9:cpu,cpuacct:/mesos/%b\n8:misc:/\n"
        b"6:memory:/mesos/%b\n1:name=systemd:/mesos_executors.slice\n"
    ) % (POD.encode(), POD.encode())
    assert of_process(text) == (f"/mesos/{POD}", Origin(runtime="mesos", container=POD))


def test_lines_that_are_none_change_nothing() -> None:
    text = f"other_line\n\n12:rdma:/\n2:pids:/docker/{A}\n3:cpu:/invalid".encode()
    assert of_process(text) == (f"/docker/{A}", Origin(runtime="docker", container=A))


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (b"", None),
        (b"0::/\n", "/"),
        (b"0::/system.slice/web.service\n", "/system.slice/web.service"),
        (b"1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service"),
        (b"3:cpu:/limits\n1:name=systemd:/system.slice/a.service\n", "/system.slice/a.service"),
        (b"3:cpu:/a:b\n", "/a:b"),
        (b"0::/with\rreturn\n", "/with\rreturn"),
    ],
)
def test_without_containers_v2_comes_first_then_systemd(lines: bytes, path: str | None) -> None:
    assert of_process(lines)[0] == path


def test_a_cgroup_file_is_read_whole(tmp_path: Path) -> None:
    long = b"13:misc:/" + b"a" * 5000 + b"\n0::/end\n"
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_bytes(long)
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        with ProcessDirectory(opened, 7) as process:
            assert process.cgroup() == long
    finally:
        os.close(opened)


def u64(*numbers: int) -> npt.NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    known = Cgroups()
    yield known
    known.close()


class Tree:
    """A directory of cgroups; removed with all below it."""

    def __init__(self, mount: str) -> None:
        self.path = Path(mount) / f"sockrec-test-{os.getpid()}"
        self.path.mkdir()

    def make(self, name: str) -> int:
        directory = self.path / name
        directory.mkdir(parents=True)
        return directory.stat().st_ino

    def remove(self) -> None:
        for directory, _, _ in os.walk(self.path, topdown=False):
            os.rmdir(directory)


@pytest.fixture
def tree(cgroups: Cgroups) -> Iterator[Tree]:
    if cgroups.mount is None or not os.access(cgroups.mount, os.W_OK):
        pytest.skip("needs a mount of cgroup v2 that may be written to")
    tree = Tree(cgroups.mount)
    try:
        yield tree
    finally:
        tree.remove()


@pytest.fixture(params=["by handle", "by a walk"])
def finder(
    request: pytest.FixtureRequest, cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> Cgroups:
    """Both ways to find a cgroup."""
    if request.param == "by a walk":
        monkeypatch.setattr(cgroups, "_by_handle", False)
    elif os.geteuid():
        pytest.skip("needs root")
    return cgroups


def test_a_cgroup_is_met_once_and_described(finder: Cgroups, tree: Tree) -> None:
    inner = tree.make(r"system.slice/a\x2db.service")
    spaced = tree.make("with a blank")
    below = f"/{tree.path.name}"
    met = {c.cgroup_id: c for c in finder.update(u64(inner, 0, spaced, inner, 1))}
    assert met[inner].path == rf"{below}/system.slice/a\x2db.service"
    assert met[inner].origin == Origin("a-b.service", "system.slice")
    assert met[spaced].path == f"{below}/with a blank"
    assert set(met) == {inner, spaced, 1}
    assert finder.update(u64(inner, 0, spaced, 1)) == []


def test_the_root_is_a_slash(finder: Cgroups, tree: Tree) -> None:
    root = tree.path.parent.stat().st_ino
    (met,) = finder.update(u64(root))
    assert (met.path, met.origin) == ("/", Origin())


def test_a_cgroup_that_is_gone_has_no_path(finder: Cgroups, tree: Tree) -> None:
    gone = tree.make("gone")
    (tree.path / "gone").rmdir()
    (met,) = finder.update(u64(gone))
    assert (met.cgroup_id, met.path, met.origin) == (gone, None, Origin())
    assert finder.update(u64(gone)) == []
    assert finder.paths(u64(gone)) is None


def test_a_path_is_kept_when_the_cgroup_goes(finder: Cgroups, tree: Tree) -> None:
    number = tree.make("short")
    finder.update(u64(number))
    (tree.path / "short").rmdir()
    assert finder.update(u64(number)) == []
    column = finder.paths(u64(number))
    assert column is not None
    assert column.to_pylist() == [f"/{tree.path.name}/short"]


def test_many_at_once_are_found_too(finder: Cgroups, tree: Tree) -> None:
    made = {tree.make(f"many/{number}"): number for number in range(40)}
    met = finder.update(u64(*made))
    assert {c.cgroup_id: c.path for c in met} == {
        cgroup_id: f"/{tree.path.name}/many/{number}" for cgroup_id, number in made.items()
    }
    later = {tree.make(f"later/{number}"): number for number in range(40)}
    for _ in range(12):
        met += finder.update(u64(*later))
    assert {c.path for c in met[40:]} == {f"/{tree.path.name}/later/{n}" for n in range(40)}
    assert len(met) == 80


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_privileges_the_tree_is_walked(tree: Tree) -> None:
    script = """
import os, sys
import numpy as np
from recorder.host.cgroups import Cgroups
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
(met,) = Cgroups().update(np.array([sys.argv[1]], np.uint64))
print(met.path)
"""
    number = tree.make("a/b")
    root = Path(__file__).parents[3]
    found = subprocess.check_output([sys.executable, "-c", script, str(number)], cwd=root)
    assert found.decode() == f"/{tree.path.name}/a/b\n"


def test_walks_are_rationed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroups = Cgroups(pause=3)
    monkeypatch.setattr(cgroups, "_by_handle", False)
    try:
        first, second = tree.make("first"), tree.make("second")
        assert [c.cgroup_id for c in cgroups.update(u64(first))] == [first]
        reported = [cgroups.update(u64(first, second)) for _ in range(4)]
        assert [len(cgroups) for cgroups in reported] == [0, 0, 1, 0]
        assert reported[2][0].path == f"/{tree.path.name}/second"
    finally:
        cgroups.close()


def test_paths_of_a_column(cgroups: Cgroups, tree: Tree) -> None:
    one, two = tree.make("one"), tree.make("two")
    cgroups.update(u64(one, two))
    ids = u64(two, 0, one, 999_999_999, two)
    base = f"/{tree.path.name}"
    column = cgroups.paths(ids)
    assert column is not None
    assert column.to_pylist() == [f"{base}/two", None, f"{base}/one", None, f"{base}/two"]
    column = cgroups.paths(ids, np.array([False, True, True, True, True]))
    assert column is not None
    assert column.to_pylist() == [None, None, f"{base}/one", None, f"{base}/two"]
    column = cgroups.paths(np.full(1000, one, np.uint64))
    assert column is not None
    assert column.dictionary.to_pylist() == [f"{base}/one"]
    assert len(column) == 1000
    assert cgroups.paths(u64()) is None


def test_no_more_cgroups_are_remembered_than_have_room(
    cgroups: Cgroups, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.host.cgroups._MOST", 1)
    one, two, three = (tree.make(name) for name in ("one", "two", "three"))
    cgroups.update(u64(one, two))
    cgroups.update(u64(two, three))
    column = cgroups.paths(u64(one, two, three))
    assert column is not None
    assert column.to_pylist() == [None, f"/{tree.path.name}/two", f"/{tree.path.name}/three"]


def test_a_host_without_cgroup_v2_says_so(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    )
    cgroups = Cgroups(tmp_path)
    assert cgroups.unseen() == [
        {"what": "cgroups of sockets (cgroup)", "why": "no cgroup v2 is mounted"}
    ]
    (met,) = cgroups.update(u64(5))
    assert (met.cgroup_id, met.path) == (5, None)
    assert cgroups.paths(u64(5)) is None
    cgroups.close()


def test_the_whole_mount_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    whole = tmp_path / "a mount"
    whole.mkdir()
    escaped = str(whole).replace(" ", r"\040")
    (tmp_path / "self/mountinfo").write_text(
        "30 27 0:28 /docker/x /part rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
        f"41 31 0:38 / {escaped} rw,nosuid shared:9 master:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    cgroups = Cgroups(tmp_path)
    assert cgroups.mount == str(whole)
    assert cgroups.unseen() == []
    cgroups.close()
