"""A thread is not begun where it would end before it says that it has begun."""

import subprocess
import sys

import pytest

from analyzer.reading.memory import STACK, check_room_for_threads

BOUNDED = """
import re, resource, sys, threading
from pathlib import Path
from analyzer.reading.memory import check_room_for_threads

# what the allocators have already is taken first, as a query that wants too much does
has = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (has + int(sys.argv[1]),) * 2)
try:
    check_room_for_threads(int(sys.argv[2]))
except MemoryError as error:
    print(error)
else:
    threads = [threading.Thread(target=lambda: None) for _ in range(int(sys.argv[2]))]
    for thread in threads:
        thread.start()
    print("begun")
"""


@pytest.mark.parametrize(
    ("room", "threads", "said"),
    [
        (0, 1, "no memory for a thread: Cannot allocate memory"),
        (STACK, 1, "no memory for a thread: Cannot allocate memory"),
        (2 * STACK, 1, "begun"),
        (2 * STACK, 2, "no memory for a thread: Cannot allocate memory"),
        (6 * STACK, 4, "begun"),
    ],
)
def test_a_thread_is_begun_where_it_finds_memory_only(room: int, threads: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(room), str(threads)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"{said}\n"


def test_without_a_bound_there_is_room() -> None:
    check_room_for_threads(8)
