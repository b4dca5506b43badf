"""Names beside the numbers of a sample's rows: user, interface, cgroup."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from recorder.host.cgroups import Cgroup, Cgroups
from recorder.host.names import Interfaces, Users
from recorder.host.namespaces import interface_names
from recorder.kernel.places import Places
from recorder.sampling.steplog import Row
from recorder.wire.columns import Arrays, Columns, Values

WALK_PAUSE = 40
"""Looks at a table between two walks of the tree of cgroups: about ten samples."""

MOST_CGROUPS = 10_000
"""Cgroups that are told again with each number, those met last."""


class Labels:
    """Looks names up, each once, and lists the cgroups it met."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._users = Users()
        self._interfaces = Interfaces(self._read_interfaces)
        self._cgroups = Cgroups(pause=WALK_PAUSE)
        self._met: list[Cgroup] = []
        self._known: dict[int, Cgroup] = {}
        self.unseen = [(item["what"], item["why"]) for item in self._cgroups.unseen()]

    def close(self) -> None:
        """Let go of the cgroups' mount."""
        self._cgroups.close()

    def begin(self) -> None:
        """Begin a sample."""
        self._interfaces.begin()

    def forget(self, netns: int) -> None:
        """Forget the interfaces of a namespace that is gone."""
        self._interfaces.forget(netns)

    def user(self, uid: int | None) -> str | None:
        """Return the name of a user."""
        return None if uid is None else self._users.names([uid])[0]

    def devices(self, netns: npt.NDArray[np.uint64], columns: Columns) -> Arrays:
        """Return the names of the interfaces that rows are bound to."""
        if "interface" not in columns:
            return {}
        found = self._interfaces.column(netns, columns["interface"])
        return {} if found is None else {"dev": found}

    def columns(self, rows: Mapping[str, object]) -> Arrays:
        """Return the names of the users and cgroups of rows."""
        result: Arrays = {}
        uid, cgroup = rows.get("uid"), rows.get("cgroup_id")
        if isinstance(uid, Values):
            found = self._users.column(uid.data, uid.valid)
            result |= {} if found is None else {"user": found}
        if isinstance(cgroup, Values):
            self._met += self._cgroups.update(cgroup.data)
            found = self._cgroups.paths(cgroup.data, cgroup.valid)
            result |= {} if found is None else {"cgroup": found}
        return result

    def again(self) -> None:
        """Have ``cgroups`` tell of all that were met of late, as if for the first time."""
        self._met = list(self._known.values())

    def cgroups(self) -> Iterator[Row]:
        """Return the rows of ``cgroups`` for those met since the last call."""
        for cgroup in self._met:
            self._known[cgroup.cgroup_id] = cgroup
            if len(self._known) > MOST_CGROUPS:
                del self._known[next(iter(self._known))]
            yield {
                "cgroup_id": cgroup.cgroup_id,
                "path": cgroup.path,
                **dataclasses.asdict(cgroup.origin),
            }
        self._met = []

    def _read_interfaces(self, netns: list[int]) -> Sequence[dict[int, str] | OSError]:
        gone = OSError(errno.ENOENT, "the network namespace is gone")
        known = [self._places[inode] for inode in netns if inode in self._places]
        read = dict(zip(known, self._places.each(known, lambda _: interface_names()), strict=True))
        names = {place.inode: found for place, found in read.items()}
        return [names.get(inode, gone) for inode in netns]
