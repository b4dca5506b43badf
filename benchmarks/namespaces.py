"""Network namespaces at rest, held for benchmarks."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKLOAD = [sys.executable, "-m", "tests.workloads.namespaces"]


class NamespacesError(Exception):
    """The namespaces could not be made; the workload has said why."""


@contextlib.contextmanager
def held(count: int, listeners: int = 0) -> Iterator[list[int]]:
    """Hold that many namespaces with as many listeners in each; yield their inode numbers.

    Raises NamespacesError if they cannot be made.
    """
    command = [*WORKLOAD, "--hold", "--count", str(count), "--sockets", str(listeners)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            answer = process.stdout.readline()
            if not answer:
                raise NamespacesError(f"{' '.join(command)} ended with {process.wait()}")
            yield json.loads(answer)
        finally:
            process.stdin.close()
            process.wait()
