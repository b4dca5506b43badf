"""``sockrec ss --live`` beside the real ss, of listeners that stay."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.recorder.support.ss_oracle import Oracle
from tests.workloads.netns import inside, lacking, namespace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: all owners"),
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]


def ours(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sockrec", "ss", "--live", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def theirs(oracle: Oracle, *words: str) -> list[str]:
    done = subprocess.run([oracle.command, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=7)) as made:
        yield made


def words_of(lines: list[str]) -> list[list[str]]:
    return sorted(line.split() for line in lines)


def test_the_kernel_is_asked_now(oracle: Oracle, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    done = ours("-tlnpH", f"sport = :{port}")
    assert done.returncode == 0, done.stderr
    found = words_of(done.stdout.splitlines())
    assert found == words_of(theirs(oracle, "-tlnpH", f"sport = :{port}"))
    assert f"pid={os.getpid()}," in found[0][-1]


def counts(lines: list[str]) -> list[str]:
    """Return what ss -s says of this namespace: sockets closed and orphaned are of the host, and
    in the total is the recorder."""
    estab = re.sub(r"TCP: +\d+|closed \d+, |orphaned \d+, ", "", lines[1])
    return [estab, *(line.rstrip() for line in lines[2:])]


def test_of_several_namespaces_one_is_shown_by_its_name(
    oracle: Oracle, listener: socket.socket
) -> None:
    with namespace() as name:
        script = (
            "import socket, sys; s = socket.create_server(('::1', 4568), family=10); "
            "print(flush=True); sys.stdin.read()"
        )
        server = subprocess.Popen(
            inside(name, sys.executable, "-c", script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with server:
            assert server.stdout is not None
            server.stdout.readline()
            for options in ("-tlnH", "-s"):
                done = ours("-N", name, options)
                assert done.returncode == 0, done.stderr
                shown = done.stdout.splitlines()
                wanted = theirs(oracle, "-N", name, options)
                if options == "-s":
                    assert counts(shown) == counts(wanted)
                else:
                    assert words_of(shown) == words_of(wanted) != []
            assert server.stdin is not None
            server.stdin.close()


def test_how_many_there_are(oracle: Oracle, listener: socket.socket) -> None:
    done = ours("-s")
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout.splitlines()) == counts(theirs(oracle, "-s"))


def test_a_namespace_that_is_none_is_told_in_one_line() -> None:
    done = ours("-N", "nowhere", "-t")
    assert done.returncode == 2
    assert done.stderr.startswith("sockrec: nowhere: there is no such network namespace")
    assert done.stderr.count("\n") == 1
