"""Real servers under load, recorded, and what summary says of them; to be run by hand, as root.

    python -m benchmarks.servers [--scenes nginx nginx-stopped postgres …] [--keep DIR]

Each scene plays in a network namespace and a directory of its own, and leaves neither behind. What
the load generators, the servers and the kernel counted stands above what summary found.
"""

from __future__ import annotations

import argparse
import http.client
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.live import LiveError, recording
from benchmarks.measure import scratch
from recorder.store.imports import leave_out_pandas
from tests.workloads.netns import inside, lacking, namespace

ROOT = Path(__file__).parents[1]
POSTGRES_FOLDERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
"""Where Debian keeps the server's programs, outside of PATH, the newest first."""

NOBODY = "nobody"

PATIENCE_S = 20
"""How long a server may take to answer first, or to end."""

LOAD_S = 12
HTTP, SQL, POOL, REDIS = 8080, 5432, 6432, 6379

NGINX = """
worker_processes 1;
pid {here}/nginx.pid;
error_log {here}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_timeout 0;
  client_body_temp_path {here}/body;
  proxy_temp_path {here}/proxy;
  fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi;
  scgi_temp_path {here}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=8;
    location / {{ return 200 "hello\\n"; }}
  }}
  server {{
    listen unix:{here}/status;
    location / {{ stub_status; }}
  }}
}}
"""

PGBOUNCER = """
[databases]
postgres = host=127.0.0.1 port={sql} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
"""

COUNTED = (
    "ActiveOpens PassiveOpens AttemptFails EstabResets RetransSegs "
    "ListenOverflows ListenDrops TCPTimeWaitOverflow TW TCPReqQFullDrop TCPReqQFullDoCookies"
).split()


class SceneError(Exception):
    """A scene that could not be played; says what failed."""


@dataclass(frozen=True)
class Stage:
    """A network namespace, a directory, and the processes started in them."""

    netns: str
    directory: Path
    ending: ExitStack

    def start(
        self, *command: str, user: str | None = None, end: signal.Signals = signal.SIGTERM
    ) -> subprocess.Popen[bytes]:
        """Start a command, which the signal ``end`` ends with the scene; its pid is its own."""
        with (self.directory / f"{Path(command[0]).name}.log").open("ab") as log:
            child = subprocess.Popen(
                self._words(command, user),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.ending.callback(_end, child, end)
        return child

    def run(self, *command: str, user: str | None = None) -> str:
        """Run a command to its end and return what it printed. Raises SceneError."""
        done = subprocess.run(
            self._words(command, user),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SceneError(f"{shlex.join(command)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def wait_for(self, ready: Callable[[], object]) -> None:
        """Wait until this raises no error."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                ready()
                return
            except (OSError, SceneError) as error:
                if time.monotonic() > deadline:
                    raise SceneError(f"not ready after {PATIENCE_S} s: {error}") from error
                time.sleep(0.05)

    def kernel(self) -> str:
        """Say what the kernel counted in the namespace since it was made."""
        counts: dict[str, str] = {}
        for name in ("snmp", "netstat"):
            lines = self.run("cat", f"/proc/net/{name}").splitlines()
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                counts |= dict(zip(names.split(), values.split(), strict=True))
        told = [f"{name} {int(counts[name]):,}" for name in COUNTED if int(counts.get(name, 0))]
        return "kernel: " + ", ".join(told)

    def _words(self, command: Sequence[str], user: str | None) -> list[str]:
        words = list(command)
        if user is not None:
            ids = pwd.getpwnam(user)
            as_user = ["setpriv", f"--reuid={ids.pw_uid}", f"--regid={ids.pw_gid}"]
            words = [*as_user, "--clear-groups", "--", *words]
        return inside(self.netns, *words)


@dataclass(frozen=True)
class Scene:
    """What is played: the story, the programs it needs, and the load put on what it starts.

    ``set_up`` starts the server and returns the load, which says what it ran and what is true.
    """

    name: str
    story: str
    programs: tuple[str, ...]
    set_up: Callable[[Stage], Callable[[], list[str]]]


def nginx(stage: Stage, *, stopped_s: float = 0.0) -> Callable[[], list[str]]:
    """Load nginx with a connection per request; its only worker stands still for that long."""
    here = stage.directory
    (here / "nginx.conf").write_text(NGINX.format(here=here, port=HTTP))
    words = ["-p", str(here), "-c", str(here / "nginx.conf"), "-g", "daemon off;"]
    master = stage.start(program("nginx"), *words)
    stage.wait_for(lambda: _nginx_status(here / "status"))
    url = f"http://127.0.0.1:{HTTP}/"
    wrk = ["wrk", "-t", "1", "-c", "64", "-d", f"{LOAD_S}s", "-H", "Connection: close", url]

    def load() -> list[str]:
        told = [f"$ {shlex.join(wrk)}", f"nginx: master {master.pid}, worker {_child(master.pid)}"]
        loading = _Aside(stage, wrk)
        if stopped_s:
            time.sleep((LOAD_S - stopped_s) / 2)
            worker = _child(master.pid)
            told.append(f"SIGSTOP to worker {worker} for {stopped_s:g} s")
            os.kill(worker, signal.SIGSTOP)
            try:
                time.sleep(stopped_s)
            finally:
                os.kill(worker, signal.SIGCONT)
        wanted = ("requests in", "Socket errors", "Non-2xx", "Requests/sec")
        lines = [line.strip() for line in loading.text().splitlines()]
        told += [f"wrk: {line}" for line in lines if any(word in line for word in wanted)]
        told.append(f"nginx: {_nginx_status(here / 'status')}")
        return told

    return load


def nginx_stopped(stage: Stage) -> Callable[[], list[str]]:
    return nginx(stage, stopped_s=6.0)


def postgres(stage: Stage) -> Callable[[], list[str]]:
    """Let eight clients of pgbench read, each over a connection that it holds."""
    _start_postgres(stage)
    return _pgbench(stage, SQL)


def postgres_reconnecting(stage: Stage) -> Callable[[], list[str]]:
    """Let them connect for each transaction."""
    _start_postgres(stage)
    return _pgbench(stage, SQL, "-C")


def postgres_pooled(stage: Stage) -> Callable[[], list[str]]:
    """Let them connect for each transaction, to a pool of four connections."""
    _start_postgres(stage)
    settings = stage.directory / "pgbouncer.ini"
    settings.write_text(PGBOUNCER.format(sql=SQL, port=POOL))
    stage.start(program("pgbouncer"), str(settings), user=NOBODY, end=signal.SIGINT)
    stage.wait_for(lambda: stage.run(program("pg_isready"), *_at(POOL)))
    return _pgbench(stage, POOL, "-C")


def _start_postgres(stage: Stage) -> None:
    """Start a server with pgbench's tables, as a user that it does not refuse."""
    data, ids = stage.directory / "data", pwd.getpwnam(NOBODY)
    os.chown(stage.directory, ids.pw_uid, ids.pw_gid)
    initdb = ["-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync"]
    stage.run(program("initdb"), *initdb, user=NOBODY)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(SQL),
        "unix_socket_directories": str(stage.directory),
        "fsync": "off",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    stage.start(program("postgres"), "-D", str(data), *words, user=NOBODY, end=signal.SIGINT)
    stage.wait_for(lambda: stage.run(program("pg_isready"), *_at(SQL)))
    stage.run(program("pgbench"), "-i", "-q", *_at(SQL), "postgres")


def _pgbench(stage: Stage, port: int, *options: str) -> Callable[[], list[str]]:
    words = ["-n", "-S", *options, "-c", "8", "-j", "2", "-T", str(LOAD_S), *_at(port), "postgres"]
    wanted = ("number of transactions", "average connection time", "initial", "tps")

    def load() -> list[str]:
        text = stage.run(program("pgbench"), *words)
        lines = [line for line in text.splitlines() if line.startswith(wanted)]
        return [f"$ pgbench {shlex.join(words)}", *(f"pgbench: {line}" for line in lines)]

    return load


def _at(port: int) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]


def redis(stage: Stage) -> Callable[[], list[str]]:
    """Publish to two subscribers of which one stops reading, beside plain traffic."""
    limits = ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]
    words = ["--bind", "127.0.0.1", "--port", str(REDIS), "--save", "", *limits]
    server = stage.start(program("redis-server"), *words)
    at = ["-h", "127.0.0.1", "-p", str(REDIS)]
    stage.wait_for(lambda: stage.run("redis-cli", *at, "ping"))
    reader, idle = (stage.start("redis-cli", *at, "subscribe", "news") for _ in range(2))
    rate, size = 20, 1 << 16
    publish = ["redis-cli", *at, "-r", str(rate * LOAD_S), "-i", str(1 / rate), "publish", "news"]
    plain = ["redis-benchmark", *at, "-q", "-c", "4", "-t", "get", "-n", str(5_000 * LOAD_S)]

    def load() -> list[str]:
        os.kill(idle.pid, signal.SIGSTOP)
        try:
            publishing = _Aside(stage, [*publish, "x" * size])
            bench = stage.run(*plain)
            told = [
                f"$ {shlex.join([*publish, f'<{size:,} bytes>'])}",
                f"$ {shlex.join(plain)}",
                f"redis-server: {server.pid}",
                f"redis-cli: subscriber {reader.pid} reads, {idle.pid} got SIGSTOP",
                *(
                    f"redis-benchmark: {line}"
                    for line in bench.splitlines()
                    if "per second" in line
                ),
            ]
            sent = publishing.text().split()
            told.append(
                f"redis-cli: {len(sent)} messages published, each to {sent[-1]} subscribers"
            )
            clients = stage.run("redis-cli", *at, "client", "list", "type", "pubsub")
        finally:
            os.kill(idle.pid, signal.SIGCONT)
        for client in clients.splitlines():
            facts = dict(word.partition("=")[::2] for word in client.split())
            told.append(
                f"redis: the client at {facts['addr']} is owed {int(facts['omem']):,} bytes "
                f"that it holds itself, in {int(facts['oll']):,} replies"
            )
        return told

    return load


POSTGRES_PROGRAMS = ("postgres", "initdb", "pg_isready", "pgbench", "setpriv")

SCENES = [
    Scene(
        "nginx",
        "nginx with keep-alive off and backlog 8, 64 connections at once",
        ("nginx", "wrk"),
        nginx,
    ),
    Scene(
        "nginx-stopped",
        "the same, and its only worker stopped in between",
        ("nginx", "wrk"),
        nginx_stopped,
    ),
    Scene(
        "postgres",
        "PostgreSQL, eight clients, a connection for each transaction",
        POSTGRES_PROGRAMS,
        postgres_reconnecting,
    ),
    Scene(
        "postgres-held",
        "PostgreSQL, eight clients that hold their connections",
        POSTGRES_PROGRAMS,
        postgres,
    ),
    Scene(
        "postgres-pooled",
        "PostgreSQL behind pgbouncer, eight clients, a connection for each transaction",
        (*POSTGRES_PROGRAMS, "pgbouncer"),
        postgres_pooled,
    ),
    Scene(
        "redis",
        "redis with two subscribers, one of which stops reading",
        ("redis-server", "redis-cli", "redis-benchmark"),
        redis,
    ),
]


def main() -> int:
    """Play the scenes named on the command line."""
    names = [scene.name for scene in SCENES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", nargs="+", choices=names, default=names)
    parser.add_argument("--keep", type=Path, help="keep the recordings there, as servers-SCENE")
    options = parser.parse_args()
    leave_out_pandas()
    if why := lacking():
        print(f"servers: {why}", file=sys.stderr)
        return 1
    # Set, so that the recorder does not inherit from a shell's background job to ignore SIGINT, by
    # which it is ended; and no KeyboardInterrupt, after which Popen does not wait for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    failed = 0
    for scene in SCENES:
        if scene.name not in options.scenes:
            continue
        absent = [name for name in scene.programs if found(name) is None]
        if absent:
            print(f"{scene.name}: needs {', '.join(absent)}; left out\n", flush=True)
            continue
        try:
            play(scene, options.keep)
        except (SceneError, LiveError) as error:
            print(f"{scene.name}: {error}", file=sys.stderr, flush=True)
            failed += 1
    return 1 if failed else 0


def play(scene: Scene, keep: Path | None) -> None:
    """Record a scene and print what is true of it and what summary says. Raises SceneError."""
    print(f"{scene.name}: {scene.story}", flush=True)
    with scratch() as directory, stage_in(directory / "stage") as stage:
        target = (keep or directory) / f"servers-{scene.name}"
        if target.exists():
            raise SceneError(f"{target} is there already: remove it, or keep elsewhere")
        target.parent.mkdir(parents=True, exist_ok=True)
        load = scene.set_up(stage)
        with recording(target, "--netns", stage.netns) as recorder:
            told = load()
            time.sleep(1)
            recorder.finish()
        told.append(stage.kernel())
        words = [sys.executable, "-m", "sockrec", "summary", str(target)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        _tell(told)
        print(f"  $ sockrec summary {target.name}")
        _tell((done.stdout + done.stderr).splitlines(), "    ")
    print(flush=True)


@contextmanager
def stage_in(directory: Path) -> Iterator[Stage]:
    """Make a stage; what still runs in its namespace in the end is killed."""
    directory.mkdir()
    directory.parent.chmod(0o711)  # a server that refuses root has to get through
    with namespace() as name, ExitStack() as ending:
        ending.callback(_kill_all, name)
        yield Stage(name, directory, ending)


def found(name: str) -> str | None:
    """Return where a program is, None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *POSTGRES_FOLDERS]))


def program(name: str) -> str:
    """Return where a program is, which has been looked for."""
    path = found(name)
    assert path is not None
    return path


class _Aside:
    """A command that runs beside what is done until its text is asked for."""

    def __init__(self, stage: Stage, command: Sequence[str]) -> None:
        self._child = subprocess.Popen(
            inside(stage.netns, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stage.ending.callback(_end, self._child, signal.SIGTERM)

    def text(self) -> str:
        text, _ = self._child.communicate()
        if self._child.returncode:
            raise SceneError(f"{self._child.args!r}: {text.strip()}")
        return text


class _Unix(http.client.HTTPConnection):
    """A connection to a unix socket, which no network namespace keeps apart."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def _nginx_status(path: Path) -> str:
    connection = _Unix(str(path))
    try:
        connection.request("GET", "/", headers={"Host": "localhost"})
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    names, counts = lines[1].split()[1:], lines[2].split()
    return ", ".join(f"{name} {int(count):,}" for name, count in zip(names, counts, strict=True))


def _child(pid: int) -> int:
    """Return the only child of a process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _end(child: subprocess.Popen[bytes] | subprocess.Popen[str], by: signal.Signals) -> None:
    if child.poll() is None:
        child.send_signal(by)
        child.send_signal(signal.SIGCONT)
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _kill_all(netns: str) -> None:
    """Kill what is left in a namespace of ours, and wait until it is gone."""
    deadline = time.monotonic() + PATIENCE_S
    while pids := _pids(netns):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SceneError(f"processes {pids} stay in {netns}")
        time.sleep(0.05)


def _pids(netns: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", netns], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


def _tell(lines: Sequence[str], indent: str = "  ") -> None:
    for line in lines:
        print(f"{indent}{line}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
