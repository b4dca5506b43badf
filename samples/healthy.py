"""A busy host on which nothing is wrong: nginx and redis, kept, short and idle connections, UDP."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from samples.incident import ADDRESS, Incident, main, scratch
from samples.services import read, serve_in_threads, with_background
from samples.stage import Facts, Stage, StageError

WEB = (ADDRESS, 80)
REDIS = (ADDRESS, 6379)
STATSD = (ADDRESS, 8125)
PAGE = "hello".ljust(2000, ".")
PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"
NGINX = f"""\
worker_processes 2; pid nginx.pid; error_log stderr error; events {{ }}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{ listen {WEB[0]}:{WEB[1]}; location / {{ return 200 "{PAGE}"; }} }}
}}
"""


def real_server(stage: Stage, comm: str, words: Sequence[str]) -> Facts:
    """Run the server itself until the end; it is the process of this name."""
    server = subprocess.Popen(
        words,
        cwd=scratch(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while stage.sleep(0.2):
        if server.poll() is not None:
            raise StageError(f"{comm} ended too early, with status {server.returncode}")
    server.terminate()
    server.wait(5)
    return {"processes": {comm: server.pid}}


def nginx(stage: Stage) -> Facts:
    """Serve a page: nginx where it is installed, else Python's own server."""
    (scratch() / "nginx.conf").write_text(NGINX)
    words = ["nginx", "-e", "stderr", "-p", ".", "-c", "nginx.conf", "-g", "daemon off;"]
    if (
        shutil.which("nginx")
        and not subprocess.run(
            [*words, "-t", "-q"], cwd=scratch(), stdin=subprocess.DEVNULL, capture_output=True
        ).returncode
    ):
        return real_server(stage, "nginx", words)

    class Page(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(WEB, Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while stage.sleep(0.5):
        pass
    return {}


def redis(stage: Stage) -> Facts:
    """Answer pings: redis where it is installed, else what speaks as much of its protocol."""
    if shutil.which("redis-server"):
        words = ["redis-server", "--bind", REDIS[0], "--port", str(REDIS[1])]
        words += ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
        return real_server(stage, "redis-server", words)

    def answer(connection: socket.socket) -> None:
        with connection:
            while read(connection, len(PING)):
                connection.sendall(PONG)

    serve_in_threads(socket.create_server(REDIS, backlog=511), answer)
    while stage.sleep(0.5):
        pass
    return {}


def statsd(stage: Stage) -> Facts:
    """Read metrics as they come."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(STATSD)
        service.settimeout(0.1)
        while not stage.over():
            with contextlib.suppress(TimeoutError):
                service.recv(512)
                received += 1
    return {"received": received}


def connect(address: tuple[str, int]) -> socket.socket:
    """Connect as soon as the server listens."""
    until = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(address, 5.0)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def checkout_api(stage: Stage) -> Facts:
    """Use redis by a pool of which some are idle; send metrics; be told pings by a local helper."""
    pool = [connect(REDIS) for _ in range(6)]
    metrics = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    metrics.connect(STATSD)
    here, there = socket.socketpair()
    commands = 0
    while stage.sleep(0.05):
        connection = pool[commands % 4]
        connection.sendall(PING)
        if read(connection, len(PONG)) != PONG:
            raise ConnectionError("redis did not answer a ping")
        metrics.send(b"checkout.pings:1|c")
        here.sendall(b".")
        there.recv(1)
        commands += 1
    return {"commands": commands, "pool": len(pool)}


def get_page(connection: http.client.HTTPConnection) -> None:
    """Get the page whole."""
    connection.request("GET", "/")
    if len(connection.getresponse().read()) != len(PAGE):
        raise ConnectionError("the page was not whole")


def web_clients(stage: Stage) -> Facts:
    """Get the page, mostly over kept connections, two times a second over a short one."""
    connect(WEB).close()
    kept = [http.client.HTTPConnection(*WEB, timeout=5) for _ in range(8)]
    pages = short = 0
    while stage.sleep(0.05):
        get_page(kept[pages % len(kept)])
        pages += 1
        if pages % 10 == 0:
            with contextlib.closing(http.client.HTTPConnection(*WEB, timeout=5)) as connection:
                get_page(connection)
            short += 1
    return {"pages": pages, "short": short, "kept": len(kept)}


def numbers(facts: Mapping[str, Facts], stage: Stage) -> Facts:
    """Return what was done; all of it went well."""
    return {
        "pages": facts["web-clients"]["pages"],
        "short_connections": facts["web-clients"]["short"],
        "kept_connections": facts["web-clients"]["kept"],
        "commands": facts["checkout-api"]["commands"],
        "pool": facts["checkout-api"]["pool"],
        "metrics_sent": facts["checkout-api"]["commands"],
        "metrics_received": facts["statsd"]["received"],
    }


INCIDENT = Incident(
    name="healthy",
    story="A busy web server with a cache, a resolver and metrics; everything is answered, read "
    "and closed as it should be.",
    finding=None,
    comm=None,
    subject=None,
    seconds=30,
    processes=with_background(
        {
            "web": nginx,
            "cache": redis,
            "statsd": statsd,
            "checkout-api": checkout_api,
            "web-clients": web_clients,
        }
    ),
    numbers=numbers,
    interval="500ms",
)

if __name__ == "__main__":
    sys.exit(main(INCIDENT))
