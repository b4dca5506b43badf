"""A /proc written by hand, for what real processes do too rarely or too fast to be caught at it."""

import shutil
from collections.abc import Mapping
from pathlib import Path


class FakeProc:
    """A directory laid out as /proc, without the sizes and counters of a new kernel."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(
        self,
        pid: int,
        descriptors: Mapping[int, str],
        *,
        start: int = 100,
        comm: bytes = b"name",
        flags: int = 0,
        limits: bytes | None = b"Limit  Soft Limit\nMax open files  1024  4096  files\n",
    ) -> None:
        """Write one process anew; `start` is in ticks of 10 ms."""
        directory = self.path / str(pid)
        fresh = self.path / f"new-{pid}"  # beside the old one, so that no inode number is reused
        (fresh / "fd").mkdir(parents=True)
        fields = [b"S", *[b"0"] * 49]
        fields[6], fields[17], fields[19] = str(flags).encode(), b"1", str(start).encode()
        (fresh / "stat").write_bytes(b"%d (%s) %s\n" % (pid, comm, b" ".join(fields)))
        (fresh / "cmdline").write_bytes(b"an\xffargument\0another\0")
        (fresh / "status").write_text("Name:\tname\nUid:\t1\t2\t3\t4\n")
        if limits is not None:
            (fresh / "limits").write_bytes(limits)
        for fd, target in descriptors.items():
            (fresh / "fd" / str(fd)).symlink_to(target)
        if directory.exists():
            shutil.move(directory, self.path / f"old-{pid}-{start}-{fresh.stat().st_ino}")
        fresh.rename(directory)

    def point(self, pid: int, fd: int, target: str) -> None:
        """Let a descriptor stand for something else, or for something at all."""
        link = self.path / str(pid) / "fd" / str(fd)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def remove(self, pid: int) -> None:
        """End a process."""
        shutil.rmtree(self.path / str(pid))


def socket_of(inode: int) -> str:
    """Return what a descriptor of a socket links to."""
    return f"socket:[{inode}]"
