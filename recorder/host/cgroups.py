"""The cgroups of sockets (v2) and of processes: identity, path, and what made them.

The identity of a cgroup is the inode number of its directory. The kernel opens that directory by
its number alone, given CAP_DAC_READ_SEARCH; without it, or for many, the whole tree is walked.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recorder.host.names import named_column
from recorder.host.procfs import decode

_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LIBC = ctypes.CDLL(None, use_errno=True)

_MOUNT = re.compile(rb"^\d+ \d+ \S+ (\S+) (\S+) .*- cgroup2 ", re.MULTILINE)
_OCTAL = re.compile(rb"\\([0-7]{3})")

_FEW = 16
"""So many are opened one by one: each may cost 0.5 ms, a walk 30 µs for each cgroup there is."""

_MOST = 20_000
"""Cgroups remembered; beyond that only those of the sample at hand are kept."""

_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")
_LONGEST_UNIT = 255
# unit_name_is_valid() of systemd: a plain unit or an instance, not a template
_UNIT = re.compile(
    r"[0-9A-Za-z:\-_.\\]+(?:@[0-9A-Za-z:\-_.\\@]+)?\.(service|scope|socket|mount|swap|slice)"
)
_ID = r"([0-9a-f]{64})"
_UUID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_UID = r"([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"

_POD = re.compile(rf"(?:^|-)pod{_UID}(?:\.slice|$)")
_PREFIXED = re.compile(
    rf"(?:.*:)?(docker|libpod|crio|cri-containerd|nerdctl|kata)[-:_]"
    rf"(?:conmon-|payload-)?{_ID}(?:\.scope)?"
)
_RUNTIME_OF_PREFIX = {
    "docker": "docker",
    "libpod": "podman",
    "crio": "cri-o",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "kata": "kata",
}
_BARE = re.compile(rf"({_ID}|[0-9a-f]{{32}}-\d+|(?P<uuid>{_UUID}))(?:\.scope)?")
"""What nobody but a runtime calls a cgroup; below ``ecs`` a UUID is that of a task."""
_RUNTIME_OF_ABOVE = {
    "ecs": "docker",
    "kata_overhead": "kata",  # the sandbox of the pod or container whose whole path follows
}
"""Runtimes that name their containers plainly, somewhere below a cgroup of their own."""
_RUNTIME_OF_PARENT = {
    "docker": "docker",
    "moby": "docker",
    "default": "containerd",
    "k8s.io": "containerd",
    "libpod_parent": "podman",
    "mesos": "mesos",
    "titus": "titus",
    "vc": "kata",
}
_PODMAN = re.compile(r"podman-\d+\.scope")
"""What holds the containers of a user's podman in v1, named for the process that began it."""
_NAMED = (
    (re.compile(r"lxc\.(?:payload|monitor)\.(.+)"), "lxc"),
    (re.compile(r"(.+)\.libvirt-lxc"), "lxc"),
    (re.compile(r"system\.slice:docker:([0-9a-z]{25})"), "docker"),  # a step of a build
    (re.compile(r"systemd-nspawn@(.+)\.service"), "systemd-nspawn"),
    (re.compile(rf"titus-[a-z]+@(?:.*__)?{_UUID}\.service"), "titus"),
)
_BELOW = {
    "docker/buildkit": (re.compile(r"([0-9a-z]{25})"), "docker"),
    **dict.fromkeys(("lxc", "lxc.payload", "lxc.monitor"), (re.compile(r"(.+)"), "lxc")),
    # garden keeps those apart that take more than their share of the CPU
    **dict.fromkeys(
        ("garden", "garden/good", "garden/bad"),
        (re.compile(r"(?!(?:good|bad)$)([0-9A-Za-z-]+)"), "garden"),
    ),
}
_MACHINE = re.compile(r"machine-(?:lxc-(?:\d+-)?|(rkt)-)?(?!qemu-)(.+)\.scope")
_RUNTIME_OF_DAEMON = {
    "containerd.service": "containerd",
    "crio.service": "cri-o",
    "docker.service": "docker",
    **dict.fromkeys(
        ("k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"),
        "containerd",
    ),
}
_DELETED = " (deleted)"
"""What the kernel appends to the path of a cgroup that is gone."""


@dataclass(frozen=True)
class Origin:
    """What a cgroup's path says of who made it; None where it says nothing."""

    unit: str | None = None
    slice: str | None = None
    runtime: str | None = None
    container: str | None = None
    pod: str | None = None


@dataclass(frozen=True)
class Cgroup:
    """A cgroup; ``path`` is below the mount, None if it was gone before it could be looked up."""

    cgroup_id: int
    path: str | None
    origin: Origin


def describe(path: str) -> Origin:
    """Return what the path of a cgroup says, by the habits of systemd and container runtimes.

    The unit and the container are the innermost ones. The slice is that of the outermost unit, as
    systemd has it: of a user's service it is user-1000.slice and not app.slice.
    """
    escaped = [name for name in path.split("/") if name]
    names = [_plain(name) for name in escaped]
    units = [_unit(name) for name in escaped]
    own = [unit for unit in units if unit and not unit.endswith(".slice")]
    pods = _pods(names)
    containers = _containers(names)
    runtime, container = containers[-1] if containers else (None, None)
    return Origin(
        unit=own[-1] if own else None,
        slice=_slice(units),
        runtime=runtime,
        container=container,
        pod=pods[-1].replace("_", "-") if pods else None,
    )


def of_process(text: bytes) -> tuple[str | None, Origin]:
    """Return the path of the cgroup of a process, and what it says, from its /proc/PID/cgroup.

    A process has one in v2 and one in every hierarchy of v1. On a host that uses both, daemons
    nest their containers in v1 and leave them in their own unit in v2. So the one counts in which
    most containers and pods are nested; of equal ones that of v2, then that of systemd's own
    hierarchy. A runtime that it does not name is told by the daemon's unit.
    """
    parts = [line.split(b":", 2) for line in text.split(b"\n")]
    paths = {part[1]: decode(part[2]).removesuffix(_DELETED) for part in parts if len(part) == 3}
    ordered = [paths.get(b""), paths.get(b"name=systemd"), *paths.values()]
    told = [path for path in ordered if path and path != "/"]
    if not told:
        return "/" if paths else None, Origin()
    path = max(told, key=_nested)  # the first of equal ones
    origin = describe(path)
    if origin.container is not None and origin.runtime is None:
        daemon = describe(paths.get(b"", "")).unit or ""
        origin = replace(origin, runtime=_RUNTIME_OF_DAEMON.get(daemon))
    return path, origin


def _plain(name: str) -> str:
    """Undo the escapes of systemd.unit(5), as far as they are characters."""
    return _ESCAPED.sub(lambda found: decode(bytes.fromhex(found[0].replace("\\x", ""))), name)


def _unit(name: str) -> str | None:
    """Return the unit or slice that a name stands for; None if systemd would refuse it.

    A ``_`` stands before the name of a unit that something of the kernel could have, and before one
    that begins with it.
    """
    name = name.removeprefix("_")
    valid = len(name) <= _LONGEST_UNIT and _UNIT.fullmatch(name)
    return _plain(name) if valid else None


def _slice(units: Sequence[str | None]) -> str | None:
    found = None
    for unit in units:
        if unit and unit.endswith(".slice"):
            found = unit
        elif found:
            break
    return found


def _pods(names: Sequence[str]) -> list[str]:
    return [found[1] for name in names for found in _POD.finditer(name)]


def _nested(path: str) -> int:
    """Count the containers and pods that a path names."""
    names = [_plain(name) for name in path.split("/") if name]
    return len(_containers(names)) + len(_pods(names))


def _containers(names: Sequence[str]) -> list[tuple[str | None, str]]:
    """Return runtime and identity of the containers, the innermost one last."""
    found: list[tuple[str | None, str]] = []
    for place in range(len(names)):
        one = _container(names, place)
        # who runs jobs or sessions in a container may call them by a UUID, too
        if one and not (found and one[0] is None and re.fullmatch(_UUID, one[1])):
            found.append(one)
    return found


def _container(names: Sequence[str], place: int) -> tuple[str | None, str] | None:
    """Return runtime and identity of the container that the name at a place is of, if it is."""
    name, parent = names[place], names[place - 1] if place else ""
    if found := _PREFIXED.fullmatch(name):
        return _RUNTIME_OF_PREFIX[found[1]], found[2]
    if (found := _BARE.fullmatch(name)) and not (parent == "ecs" and found["uuid"]):
        return _runtime_above(names[:place]), found[1]
    for pattern, runtime in _NAMED:
        if found := pattern.fullmatch(name):
            return runtime, found[1]
    for above in (parent, "/".join(names[max(0, place - 2) : place])):
        if above in _BELOW:
            pattern, runtime = _BELOW[above]
            if found := pattern.fullmatch(name):
                return runtime, found[1]
    if parent.endswith(".slice") and (found := _MACHINE.fullmatch(name)):
        lxc = "lxc" if name.startswith("machine-lxc-") else "systemd-nspawn"
        return found[1] or lxc, found[2]
    return None


def _runtime_above(names: Sequence[str]) -> str | None:
    """Return the runtime that the names above a container's own tell; None if they do not."""
    for name in reversed(names):
        if name in _RUNTIME_OF_ABOVE:
            return _RUNTIME_OF_ABOVE[name]
    parent = names[-1] if names else ""
    return "podman" if _PODMAN.fullmatch(parent) else _RUNTIME_OF_PARENT.get(parent)


class Cgroups:
    """Know the cgroups by their identities.

    The tree is walked at most once in ``pause`` updates: what then can be found in no other way is
    reported later.
    """

    def __init__(self, proc: Path = Path("/proc"), *, pause: int = 10) -> None:
        self._proc = proc
        self._pause = pause
        self._paths: dict[int, str | None] = {}
        self._updates = 0
        self._walk_after = 0
        self._by_handle = True
        self.mount = _mount(proc)
        self._root = -1
        if self.mount is not None:
            try:
                self._root = os.open(self.mount, _OPEN)
            except OSError:
                self.mount = None

    def close(self) -> None:
        """Let go of the mount."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def unseen(self) -> list[dict[str, str]]:
        """Return what is missing, as items of recording.json."""
        if self.mount is not None:
            return []
        return [{"what": "cgroups of sockets (cgroup)", "why": "no cgroup v2 is mounted"}]

    def update(self, ids: npt.NDArray[np.uint64]) -> list[Cgroup]:
        """Look up the identities of a sample, and return the cgroups met for the first time.

        Zeros, which mean that there is none, and duplicates are allowed.
        """
        self._updates += 1
        if not ids.size:
            return []
        distinct = [int(ids[0])] if (ids == ids[0]).all() else pa.array(ids).unique().to_pylist()
        new = [number for number in distinct if number and number not in self._paths]
        if not new:
            return []
        if len(self._paths) > _MOST:
            self._paths = {n: self._paths[n] for n in distinct if n in self._paths}
        found: dict[int, str | None] | None = None
        if self.mount is None:
            found = dict.fromkeys(new)
        elif self._by_handle and (len(new) <= _FEW or self._updates < self._walk_after):
            found = self._open(new)
        if found is None:
            if self._updates < self._walk_after:
                return []
            self._walk_after = self._updates + self._pause
            found = self._walk(new)
        self._paths.update(found)
        return [
            Cgroup(number, path, Origin() if path is None else describe(path))
            for number, path in found.items()
        ]

    def paths(
        self, ids: npt.NDArray[np.uint64], valid: npt.NDArray[np.bool_] | None = None
    ) -> pa.DictionaryArray | None:
        """Return the paths of N cgroups; NULL where unknown, None if all are."""
        return named_column(ids, lambda distinct: [self._paths.get(n) for n in distinct], valid)

    def _open(self, ids: Sequence[int]) -> dict[int, str | None] | None:
        """Return the paths of cgroups by open_by_handle_at(2); None if that is not possible.

        Those that could not be opened this time are left out.
        """
        found: dict[int, str | None] = {}
        for number in ids:
            handle = _FileHandle(8, _FILEID_KERNFS, number)
            opened = _LIBC.open_by_handle_at(self._root, ctypes.byref(handle), _OPEN)
            if opened >= 0:
                try:
                    found[number] = self._below(os.readlink(f"{self._proc}/self/fd/{opened}"))
                finally:
                    os.close(opened)
            elif ctypes.get_errno() in (errno.ESTALE, errno.ENOENT):
                found[number] = None
            elif ctypes.get_errno() not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                self._by_handle = False
                return None
        return found

    def _below(self, path: str) -> str | None:
        assert self.mount is not None
        if path != self.mount and not path.startswith(self.mount.rstrip("/") + "/"):
            return None  # in no place that this mount shows
        return decode(os.fsencode(path[len(self.mount) :])) or "/"

    def _walk(self, ids: Sequence[int]) -> dict[int, str | None]:
        assert self.mount is not None
        found: dict[int, str | None] = dict.fromkeys(ids)
        missing = set(ids)
        if (root := os.fstat(self._root).st_ino) in missing:
            missing.discard(root)
            found[root] = "/"
        directories = [self.mount]
        while directories and missing:
            try:
                with os.scandir(directories.pop()) as entries:
                    below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # it was removed
            for entry in below:
                directories.append(entry.path)
                if (number := entry.inode()) in missing:
                    missing.discard(number)
                    found[number] = self._below(entry.path)
        return found


class _FileHandle(ctypes.Structure):
    """Struct file_handle of name_to_handle_at(2) with the identity of a kernfs node."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint32),
        ("handle_type", ctypes.c_int32),
        ("number", ctypes.c_uint64),
    )


def _mount(proc: Path) -> str | None:
    """Return where cgroup v2 is mounted, whole if it is anywhere; None if it is not mounted."""
    try:
        table = (proc / "self/mountinfo").read_bytes()
    except OSError:
        return None
    mounts = sorted(_MOUNT.findall(table), key=lambda mount: bool(mount[0] != b"/"))
    if not mounts:
        return None
    return os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), mounts[0][1]))
