"""Builds the sdist and from it the wheel, then uses the wheel without any development package."""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command, show it and return what it printed; end this script if it fails."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    done = subprocess.run(
        words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        sys.exit(f"wheel_smoke: exit status {done.returncode}")
    return done.stdout


def expect(true: bool, failure: str) -> None:
    """End this script with that sentence if it is not true."""
    if not true:
        sys.exit(f"wheel_smoke: {failure}")


def check_contents(built: Path, reports: set[str]) -> Path:
    """Check what is packed; return the wheel."""
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    beside = (".dist-info/", ".data/data/share/man/man1/")
    tops = {name.split("/")[0] for name in packed if not any(part in name for part in beside)}
    expect(tops == {"sockrec.py", "recorder", "analyzer"}, f"the wheel installs {sorted(tops)}")
    expect(any(name.endswith("/man1/sockrec.1") for name in packed), "the wheel lacks the man page")
    missing = {"analyzer/py.typed", *(f"analyzer/queries/{name}" for name in reports)} - packed
    expect(not missing, f"the wheel lacks {sorted(missing)}")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    missing = {f"queries/{name}" for name in reports} - packed
    expect(not missing, f"the sdist lacks {sorted(missing)}")
    return wheel


def main() -> None:
    """Build, check, install, use."""
    reports = {str(p.relative_to(ROOT / "queries")) for p in (ROOT / "queries").rglob("*.sql")}
    development = {line for line in requires("sockrec") or () if "extra ==" in line}
    with tempfile.TemporaryDirectory(prefix="sockrec-wheel-") as temporary:
        work = Path(temporary)
        built = work / "built"
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, ROOT)
        wheel = check_contents(built, reports)
        venv.create(work / "venv")
        python, sockrec = work / "venv/bin/python", work / "venv/bin/sockrec"
        pip = (sys.executable, "-m", "pip", "--python", python)
        run(*pip, "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
        installed = run(*pip, "list", "--format=freeze")
        for name in ("pytest", "mypy", "hypothesis", "syrupy"):
            expect(any(line.startswith(name) for line in development), f"{name} is no extra")
            expect(f"{name}==" not in installed, f"{name} came along")
        run(*pip, "check")
        run(sockrec, "--help", cwd=work)
        run(python, "-m", "sockrec", "--version", cwd=work)
        catalogue = run(sockrec, "reports", cwd=work)
        for name in ("states", "process_sockets"):
            expect(name in catalogue, f"no report {name}")
        run(sockrec, "record", "-d", "2s", "-o", "smoke", cwd=work)
        run(sockrec, "info", "smoke", cwd=work)
        run(sockrec, "summary", "smoke", cwd=work)
        shown = run(sockrec, "report", "states", "smoke", cwd=work)
        expect(shown.strip() != "", "the report is empty")


if __name__ == "__main__":
    main()
