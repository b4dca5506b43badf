"""What must hold for the files of the repository: pins, generated pages, layers, no registry."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]

# Written so that this file does not match itself.
REGISTRY = re.compile(
    r"https?://\S*(py[p]i|pythonhos[t]ed|npm[j]s|regis[t]ry|artifac[t]ory|ne[x]us|cond[a]|"
    r"/sim[p]le/?\b|deb\.deb[i]an)"
    r"|\b(py[p]i|pythonhos[t]ed|npm[j]s|ana[c]onda)\.(org|io|com|net)\b"
    r"|--(extra-)?index-u[r]l|find-li[n]ks",
    re.IGNORECASE,
)


def tracked() -> list[Path]:
    """Return the files that are, or would be, committed."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and its repository, to know which files are ours")
    return [ROOT / name for name in listed.decode().split("\0") if name]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def dependencies(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """Yield what an installed distribution requires on this machine, with those extras."""
    for line in requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
            yield requirement


def test_constraints_are_sorted_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert [line for line in lines[1:] if not re.fullmatch(r"[\w.-]+==\d[\w.]*", line)] == []
    assert lines[1:] == sorted(lines[1:], key=lambda line: line.upper())


def test_constraints_pin_every_dependency() -> None:
    pinned = {canonicalize_name(name) for name in pins()}
    seen: set[str] = set()
    waiting = [("sockrec", frozenset({"dev"}))]
    while waiting:
        name, extras = waiting.pop()
        try:
            required = list(dependencies(name, extras))
        except PackageNotFoundError:  # an optional one that is not installed
            continue
        for requirement in required:
            found = canonicalize_name(requirement.name)
            if found not in seen:
                seen.add(found)
                waiting.append((found, frozenset(requirement.extras)))
    assert {"pyarrow", "pytest", "numpy"} <= seen
    assert seen - pinned == set()


def test_no_file_names_a_package_registry() -> None:
    found = []
    for path in tracked():
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a captured dump or a recording
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in REGISTRY.finditer(text)]
    assert found == []


def test_the_registry_pattern_recognises_one() -> None:
    assert REGISTRY.search("https://" + "py" + "pi.org" + "/simple/")
    assert REGISTRY.search("files." + "python" + "hosted.org")
    assert REGISTRY.search("https://" + "regis" + "try.example/x")
    assert not REGISTRY.search("https://docs.kernel.org/networking/")


@pytest.mark.parametrize(
    ("page", "command"),
    [
        ("schema.md", ["docs/generate_schema.py"]),
        ("reports.md", ["docs/generate_queries.py", "reports"]),
        ("views.md", ["docs/generate_queries.py", "views"]),
        ("sockrec.1", ["docs/generate_man.py"]),
    ],
)
def test_a_generated_page_is_current(page: str, command: list[str]) -> None:
    printed = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / "docs" / page).read_text() == printed, "say: make docs"


def test_the_man_page_is_one(tmp_path: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    shown = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", str(ROOT / "docs/sockrec.1")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    for words in ("sockrec summary [OPTIONS] [RECORDING...]", "--fail-on SEVERITY", "PAGER"):
        assert words in shown.stdout


def test_the_reports_are_reached_by_a_link() -> None:
    link = ROOT / "analyzer/queries"
    assert link.is_symlink()
    assert link.readlink() == Path("../queries")


def modules(package: str) -> set[str]:
    """Return the modules of a package, and the packages in it."""
    found = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
    return found | {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}


@pytest.mark.parametrize("package", ["recorder", "analyzer"])
def test_every_module_has_its_layer(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["id"] == f"{package}-layers")
    placed = {name.strip(" ()") for layer in layers for name in re.split("[:|]", layer)}
    present = modules(package)
    assert placed == present


@pytest.mark.parametrize("package", ["recorder", "analyzer"])
def test_every_module_stands_in_the_architecture_page(package: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    present = modules(package)
    assert [name for name in sorted(present) if f"`{name}`" not in page] == []


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
