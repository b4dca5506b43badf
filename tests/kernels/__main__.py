"""Runs live tests of the recorder and incidents under kernels of Debian, in QEMU and without KVM.

    python -m tests.kernels [--short] [--if-possible] [6.1 6.12 newest]

Each kernel is the newest of its release that apt offers, unpacked and not installed. The guest has
this machine's root, read only and below an overlay in memory, so that this checkout and its
environment are where they are. Its clock counts instructions rather than the time that emulation
takes, so that what has a deadline has it there too. One line a kernel says what was found.
"""

from __future__ import annotations

import argparse
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

CHECKOUT = Path(__file__).parents[2]
KERNELS = Path(os.environ.get("KERNELS") or CHECKOUT / ".kernels")
"""Where kernels are unpacked, some 300 MB each."""

PROGRAMS = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "qemu-system-x86_64": "qemu-system-x86",
    "redis-server": "redis-server",
}
"""What is needed, lest anything be skipped, and the package of Debian that has it."""

RELEASES = ("6.1", "6.12", "newest")

INSTRUCTION_NS = 0
"""The guest's clock goes 2 to this power nanoseconds an instruction: what scales every deadline."""

MEMORY = "3G"
NICE = 10

Runs: TypeAlias = Sequence[Sequence[str]]
"""What pytest gets; one run after another."""

SCENE: Runs = (("tests/recorder/diag/test_differential_hosts.py",),)
LIVE: Runs = (
    *SCENE,
    ("tests/recorder/diag/test_families.py", "-k", "live or ss_prints"),
    (
        *("-m", "not hypothesis"),  # which are of no kernel
        "tests/recorder/diag/test_differential_live.py",
        "tests/recorder/host/test_counters.py",
        "tests/recorder/host/test_namespaces.py",
        "tests/recorder/kernel/test_closes.py",
        "tests/recorder/network",
        "tests/recorder/owners/test_owners_ground_truth.py",
        "tests/recorder/sampling/test_sampler_live.py",
        "tests/recorder/test_unprivileged.py",
    ),
)

INCIDENTS = "tests/kernels/test_incidents.py"
"""What reads, on this machine, what tests.kernels.incidents has recorded in the guest."""

_IMAGE = re.compile(r"linux-image-(\d+\.\d+)(?:[\d.+~-]|deb|bpo)*-amd64")

_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in $($b cat /order); do $b insmod $module; done
nine() { $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$3 $1 $2; }
nine root /lower ro,cache=loose
$b mount -t tmpfs -o size=75% rw /rw
$b mkdir -p /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /new
$b mount -t proc proc /new/proc
$b mount -t sysfs sys /new/sys
$b mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$b mount -t devtmpfs dev /new/dev
$b mkdir -p /new/dev/pts /new/dev/shm /new/out
$b mount -t devpts devpts /new/dev/pts
for folder in dev/shm run; do $b mount -t tmpfs tmpfs /new/$folder; done
nine out /new/out rw,cache=none
exec $b switch_root /new /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 PATH=$PATH_ /bin/bash $COMMAND
"""
"""The guest's first process; no chroot, in which no user namespace can be made."""


class CannotError(Exception):
    """What this machine lacks; one line."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of Debian, unpacked."""

    release: str
    root: Path

    @property
    def version(self) -> str:
        """The name of the folder of its modules."""
        return self._the_only("lib/modules/*").name

    @property
    def image(self) -> Path:
        return self._the_only("boot/vmlinuz-*")

    def _the_only(self, pattern: str) -> Path:
        (found,) = self.root.glob(pattern)
        return found


def choose(releases: list[str]) -> dict[str, str]:
    """Return the package of each release; the newest is left out where it is one of the others."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.uname().machine != "x86_64" or os.geteuid() != 0:
        raise CannotError("needs root on x86-64")
    if absent:
        packages = " ".join(sorted({PROGRAMS[name] for name in absent}))
        raise CannotError(f"needs {', '.join(absent)}: apt-get install {packages}")
    names = _run("apt-cache", "pkgnames", "linux-image-").split()
    offered: dict[str, str] = {}
    for name in sorted(names, key=_numbers):
        if image := _IMAGE.fullmatch(name):
            offered[image[1]] = name
    if not offered:
        raise CannotError("apt offers no kernel: apt-get update")
    newest = max(offered, key=_numbers)
    wanted = dict.fromkeys(newest if name == "newest" else name for name in releases)
    if lacking := wanted.keys() - offered.keys():
        raise CannotError(f"apt offers no kernel {', '.join(sorted(lacking))}")
    return {name: offered[name] for name in wanted}


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _run(*command: str, cwd: Path | None = None, seconds: float | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise CannotError(f"{shlex.join(command)}: not done in {seconds:.0f} s") from None
    if done.returncode:
        raise CannotError(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def unpack(release: str, package: str, seconds: float) -> Kernel:
    """Return a kernel, downloaded and unpacked unless it is there."""
    kernel = Kernel(release, KERNELS / package)
    if not (kernel.root / "unpacked").exists():
        shutil.rmtree(kernel.root, ignore_errors=True)
        kernel.root.mkdir(parents=True)
        _run("apt-get", "-q", "download", package, cwd=kernel.root, seconds=seconds)
        (archive,) = kernel.root.glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), str(kernel.root))
        archive.unlink()
        _run("depmod", "-b", str(kernel.root), kernel.version)
        (kernel.root / "unpacked").touch()
    return kernel


def first_root(kernel: Kernel, folder: Path, command: list[str]) -> Path:
    """Make the archive of the guest's first root: busybox, what mounts the true one, and /init."""
    init = folder / "init"
    for name in ("bin", "proc", "dev", "lower", "rw", "new", "modules"):
        (init / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), init / "bin/busybox")
    order = []
    for module in ("virtio_pci", "9pnet_virtio", "9p", "overlay"):
        options = ("-d", str(kernel.root), "-S", kernel.version, "--show-depends", module)
        for line in _run("modprobe", *options).splitlines():
            word, _, path = line.strip().partition(" ")
            if word == "insmod":
                order.append(_module(Path(path.strip()), init / "modules"))
    (init / "order").write_text("\n".join(dict.fromkeys(order)))
    text = _INIT.replace("$PATH_", os.environ["PATH"]).replace("$COMMAND", shlex.join(command))
    (init / "init").write_text(text)
    (init / "init").chmod(0o755)
    archive = folder / "initrd"
    with archive.open("wb") as file:
        names = "\n".join(str(path.relative_to(init)) for path in sorted(init.rglob("*")))
        cpio = ["cpio", "-o", "-H", "newc", "--quiet"]
        subprocess.run(cpio, input=names.encode(), stdout=file, cwd=init, check=True)
    return archive


def _module(path: Path, folder: Path) -> str:
    """Copy a module, as busybox loads it; return its path in the guest."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        data, path = lzma.decompress(data), path.with_suffix("")
    (folder / path.name).write_bytes(data)
    return f"/modules/{path.name}"


def boot(kernel: Kernel, out: Path, command: list[str], seconds: float) -> str:
    """Run a command in the checkout under a kernel; return why it did not end, nothing if it did.

    ``out`` is /out in the guest, and gets its console.
    """
    with tempfile.TemporaryDirectory() as folder:
        guest = [str(CHECKOUT / "tests/kernels/guest.sh"), str(kernel.root), str(CHECKOUT)]
        archive = first_root(kernel, Path(folder), [*guest, *command])
        shared = "security_model=none,multidevs=remap"
        qemu = [
            *("qemu-system-x86_64", "-accel", "tcg", "-icount", f"shift={INSTRUCTION_NS}"),
            # of this processor's features none that numpy or the emulation get wrong
            *("-cpu", "Nehalem", "-smp", "1", "-m", MEMORY, "-nic", "none", "-vga", "none"),
            *("-nographic", "-no-reboot", "-monitor", "none", "-device", "virtio-rng-pci"),
            *("-kernel", str(kernel.image), "-initrd", str(archive)),
            *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
            *("-virtfs", f"local,path=/,mount_tag=root,readonly=on,{shared}"),
            *("-virtfs", f"local,path={out},mount_tag=out,{shared}"),
        ]
        with (out / "console").open("wb") as console:
            try:
                subprocess.run(
                    ["nice", "-n", str(max(0, NICE - os.nice(0))), *qemu],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    timeout=seconds,
                )
            except subprocess.TimeoutExpired:
                return "the time was over before the tests were"
    return "" if (out / "ended").exists() else "the guest stopped before the tests were over"


def compile_all(pytest: list[str], runs: Runs) -> None:
    """Let Python and pytest keep here what they would compile in every guest anew."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    compiled = [sys.executable, "-m", "compileall", "-q", "recorder", "tests", "sockrec.py"]
    for command in (compiled, *([*pytest, "--collect-only", *words] for words in runs)):
        subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True)


def told(tests: Path) -> tuple[str, bool]:
    """Return what a run of tests says of itself (JUnit's XML), and whether nothing is wrong."""
    suite = ElementTree.parse(tests).getroot()
    cases = list(suite.iter("testcase"))
    wrong = [str(one.get("name")) for one in cases if {"failure", "error"} & {e.tag for e in one}]
    why = Counter(str(skipped.get("message")) for skipped in suite.iter("skipped"))
    words = [f"{len(cases) - len(wrong) - why.total()} tests passed"]
    if wrong:
        words.append(f"{len(wrong)} failed ({', '.join(wrong)})")
    if why:
        reasons = "; ".join(f"{number} {reason}" for reason, number in why.items())
        words.append(f"{why.total()} skipped ({reasons})")
    words += [str(one.get("value")) for one in suite.iter("property")]
    return ", ".join(words), not wrong and cases != []


def main() -> int:
    """Run; 0 if nothing is wrong, 1 if something is or nothing could be run."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels")
    parser.add_argument("releases", nargs="*", default=[*RELEASES], metavar="RELEASE")
    parser.add_argument("--short", action="store_true", help="only the scene of every family")
    parser.add_argument("--if-possible", action="store_true", help="succeed where it cannot be run")
    parser.add_argument("--seconds", type=float, default=1800, help="most that a kernel may take")
    parser.add_argument("--tests", help="what pytest gets instead of the chosen files")
    given = parser.parse_args()
    try:
        packages = choose(given.releases)
    except CannotError as error:
        print(f"kernels: not run: {error}", flush=True)
        return 0 if given.if_possible else 1
    well = True
    for place, (release, package) in enumerate(packages.items()):
        newest = place == len(packages) - 1 and release not in given.releases
        runs: Runs = SCENE if given.short or newest else LIVE
        if given.tests:
            runs = (shlex.split(given.tests),)
        try:
            well &= _one(release, package, runs, given)
        except CannotError as error:
            print(f"kernels: {release}: not run: {error}", flush=True)
            well &= given.if_possible
    return 0 if well else 1


def _one(release: str, package: str, runs: Runs, given: argparse.Namespace) -> bool:
    """Run tests under one kernel and tell; return whether all is well.

    Where it is enough to run what is possible, what did not end is told and no fault.
    """
    begun = time.monotonic()
    kernel = unpack(release, package, given.seconds)
    out = KERNELS / "out" / release
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    python = str(Path(sys.prefix) / "bin/python")
    pytest = [python, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--tb=short"]
    compile_all(pytest, runs)
    lines = [
        shlex.join([*pytest, f"--junitxml=/out/{number}.xml", *words])
        for number, words in enumerate(runs)
    ]
    results = [out / f"{number}.xml" for number in range(len(runs))]
    if runs is LIVE:
        lines.append(shlex.join([python, "-m", "tests.kernels.incidents", "/out/incidents"]))
        results.append(out / "incidents.xml")
    left = given.seconds - (time.monotonic() - begun)
    unended = boot(kernel, out, ["/bin/bash", "-c", "; ".join(lines)], left)
    if runs is LIVE and not unended:
        folder = {"SOCKREC_INCIDENTS": str(out / "incidents")}
        command = [*pytest, f"--junitxml={results[-1]}", INCIDENTS]
        with (out / "incidents.log").open("wb") as log:
            subprocess.run(
                command, cwd=CHECKOUT, env=os.environ | folder, stdout=log, stderr=log, timeout=600
            )
    took = f"{time.monotonic() - begun:.0f} s"
    said = [told(file) for file in results if file.exists()]
    if not unended:
        said += [("a run of tests told nothing", False)] * (len(results) - len(said))
    well = all(good for _, good in said) and (given.if_possible or not unended)
    words = [words for words, _ in said] + [unended] * (unended != "")
    lacking = out / "missing"
    if lacking.exists() and lacking.read_text().strip():
        words.append(f"modules it lacks: {lacking.read_text().strip()}")
    if not well:
        words.append(f"see {out / 'console'}")
    print(f"kernels: Linux {kernel.version} in {took}: {'; '.join(words)}", flush=True)
    return well


if __name__ == "__main__":
    sys.exit(main())
