"""The steps: which way each table is read by."""

from __future__ import annotations

import errno
from collections.abc import Callable

from recorder.kernel.tables import Steps, parse_query
from recorder.kernel.waiting import Waiting
from recorder.wire.netlink import Dump, Framing, Outcome, Words

# as sctp_eps_seq_show() prints it
ENDPOINT = "00000000aaaa000%d 00000000bbbb0001 2   10  45   36412  1000 500%d %s \n"


class WithoutHandlers:
    """A namespace of which sock_diag tells nothing, and /proc/net what it is given."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def dump(
        self,
        kind: int,
        body: bytes,
        decode: Callable[[Words, Framing, Dump], None],
        waiting: Waiting | None = None,
    ) -> Dump:
        return Dump(Outcome.of_errno(errno.ENOENT, "NLMSG_DONE"))

    def read_file(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, name)
        return self.files[name].encode()


def test_without_sctp_diag_both_families_are_told_to_be_read_from_proc() -> None:
    lines = [ENDPOINT % (1, 1, "10.0.0.1"), ENDPOINT % (2, 2, "::"), ENDPOINT % (3, 3, "fe80::1")]
    reader = WithoutHandlers({"sctp/eps": "heading\n" + "".join(lines), "sctp/assocs": "heading\n"})
    steps = Steps(parse_query("sctp"), (6, 18))
    found = {step.name: step.read(reader, 1, 0) for step in steps}
    assert {name: (r.source, r.rows) for name, r in found.items()} == {
        "sctp": ("proc", 1),
        "sctp6": ("proc", 2),
    }
    assert [inode for r in found.values() for inode in r.inodes.tolist()] == [5001, 5002, 5003]
