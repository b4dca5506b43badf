"""A few rounds of `make torture`: nothing lost, nothing wrong, everything told."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.live
def test_some_rounds_of_torture(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--seconds", "0"],
        cwd=Path(__file__).parents[3],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"^(\d+) passed, 0 failed$", done.stdout, re.MULTILINE)
    assert told, done.stdout
    assert int(told[1]) >= 6
