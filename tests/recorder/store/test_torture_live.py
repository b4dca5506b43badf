"""A few rounds of `make torture`: nothing lost, nothing wrong, everything told."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = ["kill", "flip", "remove"]
if shutil.which("cc") or shutil.which("gcc"):
    KINDS += ["faults", "faults while making", "faults while changing"]


@pytest.mark.live
def test_some_rounds_of_torture(tmp_path: Path) -> None:
    asked = [word for kind in KINDS for word in ("--kind", kind)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--seconds", "0", *asked],
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
    assert int(told[1]) == len(KINDS)
