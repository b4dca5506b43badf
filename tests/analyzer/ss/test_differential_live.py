"""The view of a recording against the real ss, on a workload that stands still between the two."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from analyzer.cli_ss import app, read_options
from analyzer.reading.recording import open_recording
from analyzer.reading.sources import Sources
from analyzer.sql.filters import filtered
from analyzer.sql.views import Scope
from analyzer.ss.rows import Rows
from analyzer.ss.show import Recorded, Show
from recorder.host import facts
from recorder.kernel.tables import QUERIES, Steps
from recorder.kernel.transport import DiagSocket
from recorder.kernel.waiting import Waiting
from recorder.schema import SOCKETS
from recorder.ssfilter import Filter, FilterError, Host, Port, leaves, parse
from recorder.ssfilter.rows import LOOKED_AT, Known, matching
from recorder.store.journal import BatchMaker
from recorder.wire.netlink import Dump
from tests.recorder.support.ss_oracle import Oracle
from tests.workloads.held import MD5_KEY, held_by_child
from tests.workloads.resident import _drop_all

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: raw and packet sockets, all owners"),
]

IMITATED = (6, 1)
COMMAND = typer.main.get_command(app)


@dataclass
class Machine:
    """A recording of a workload that lives on, and the ss that sees the same."""

    recorded: Recorded
    ss: str
    ports: list[int]
    printed: dict[str, list[str]]
    recordings: dict[str, Recorded]
    """By the words of ss that were asked just after it was made."""
    told: list[str] = field(default_factory=list)

    def ours(self, *words: str) -> list[str]:
        """Return the lines of ``sockrec ss``."""
        with COMMAND.make_context("ss", ["RECORDING", *words]) as ctx:
            asked = read_options(ctx, ctx.params["words"][1:])
        out = StringIO()
        self.told.clear()
        recorded = self.recordings.get(" ".join(words), self.recorded)
        Show(recorded, asked, out, self.told.append).run()
        return out.getvalue().splitlines()


def printed(command: str, words: str) -> list[str]:
    """Return the lines of ss."""
    done = subprocess.run([command, *words.split()], capture_output=True, timeout=60)
    assert done.returncode == 0, (words, done.stderr)
    # before 6.8 ss printed keys past its own buffer, in front of everything else
    text = done.stdout.decode().replace(f"127.0.0.1/32={MD5_KEY}", "").replace(MD5_KEY, "")
    return text.splitlines()


@pytest.fixture(scope="module")
def machine(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if oracle.release != IMITATED:
        pytest.skip("needs ss of iproute2 6.1, which is imitated")
    folder = tmp_path_factory.mktemp("ss")
    with ExitStack() as stack:
        stack.enter_context(held_by_child(40))
        ports = others(stack)
        subprocess.run([oracle.command, "-ae"], capture_output=True)  # gives cookies
        every: dict[str, list[str]] = {}
        recordings: dict[str, Recorded] = {}
        # What is in TIME-WAIT leaves it after a minute, which a busy machine needs for them all.
        fleeting = re.compile("time-wait|syn-recv")
        left = sorted((*STILL, *MOVING, *NETLINK), key=lambda words: not fleeting.search(words))
        while left:
            begun = time.monotonic()
            recorded = record(folder / str(len(left)), stack)
            for words in left[:]:
                every[words] = printed(oracle.command, words)
                recordings[words] = recorded
                left.remove(words)
                if time.monotonic() > begun + SOON_S:
                    break
        yield Machine(recorded, oracle.command, ports, every, recordings)


SOON_S = 10.0
"""So long after a recording was begun it is still what ss shows: before timers fire."""


def record(target: Path, stack: ExitStack) -> Recorded:
    """Record one sample, of which the recorder itself is left out."""
    command = [sys.executable, "-m", "sockrec", "record", "-n", "1", "-q", "-o", str(target)]
    recorder = subprocess.Popen([*command, "--netns", "current"])
    assert recorder.wait(120) == 0
    rows = stack.enter_context(Rows(Sources([open_recording(target)])))
    return Recorded(rows, UTC, Scope(where=f"pid IS DISTINCT FROM {recorder.pid}"))


def others(stack: ExitStack) -> list[int]:
    """Open what the workload lacks; return the port ids of netlink sockets."""

    def keep(*kind: int) -> socket.socket:
        return stack.enter_context(closing(socket.socket(*kind)))

    for protocol, type_ in (
        (3, socket.SOCK_RAW),
        (0x0800, socket.SOCK_DGRAM),
        (0, socket.SOCK_RAW),
    ):
        one = keep(socket.AF_PACKET, type_, 0)
        _drop_all(one)
        if protocol:
            one.bind(("lo", protocol))
    ring = keep(socket.AF_PACKET, socket.SOCK_RAW, 0)
    ring.setsockopt(263, 5, struct.pack("=IIII", 4096, 4, 2048, 8))
    for family, protocol in ((socket.AF_INET, 1), (socket.AF_INET6, 58), (socket.AF_INET, 255)):
        keep(family, socket.SOCK_RAW, protocol)
    connected = keep(socket.AF_INET, socket.SOCK_RAW, 17)
    connected.connect(("127.0.0.1", 0))
    for address in ("127.0.0.1", "0.0.0.0"):
        named = keep(socket.AF_INET)
        named.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        named.bind((address, 80 if address == "127.0.0.1" else 443))
        named.listen(7)
        client = keep(socket.AF_INET)
        client.connect(named.getsockname())
        stack.enter_context(closing(named.accept()[0]))
    bound = keep(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    bound.bind(("127.0.0.1", 53))
    multipath = keep(socket.AF_INET, socket.SOCK_STREAM, 262)
    multipath.bind(("127.0.0.1", 8443))
    multipath.listen(3)
    client = keep(socket.AF_INET, socket.SOCK_STREAM, 262)
    client.connect(("127.0.0.1", 8443))
    stack.enter_context(closing(multipath.accept()[0]))
    ports = []
    for protocol, groups in ((0, 0), (16, 0), (15, 1)):
        one = keep(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        one.bind((0, groups))
        ports.append(one.getsockname()[0])
    auto = keep(socket.AF_UNIX, socket.SOCK_DGRAM)
    auto.bind("")
    return ports


STILL = [
    # tables
    *("-t -u -x -w -0 -M -d -S -tu -tx -tuwx -ta -ua -xa -wa -0a -Ma -tl -ul -xl -wl -tul").split(),
    *("-4 -6 -4a -6a -4t -6ua -46a -tM -uM -wM -x4 -x4a -0x -tulx").split(),
    *("-f inet", "-f inet6 -a", "-f unix", "-f link", "-f inet -f unix -a"),
    *("-A tcp", "-A udp", "-A udp -a", "-a -A udp", "-A inet -a", "-A unix -a", "-A u_str"),
    *("-A unix_dgram -a", "-A u_seq -a", "-A tcp,udp -a", "-A raw -l", "-A inet,!udp -a"),
    *("-A packet -a", "-A p_raw -a", "-t -A udp -a", "-A udp -t -a", "-A mptcp -a", "-A u_dgr"),
    # states
    *("-t state established", "-t state time-wait", "-t state listening", "-ta state bucket"),
    *("-t state big", "-t state connected", "-t state synchronized", "-t exclude established"),
    *("-t state syn-sent state syn-recv", "-t excl connected", "-t state close-wait"),
    *("-t state fin-wait-2", "-tu state closed", "-x state unconnected", "-u state ESTABLISHED"),
    *("-ta exclude listening exclude time-wait", "-t state syn-rcv", "-t state last-ack"),
    *("-t state all", "-wx state all", "-u state close", "-t state fin-wait-1"),
    # how
    *("-tan", "-tanH", "-uan", "-xanH", "-wan", "-0an", "-Man", "-tanO", "-t6an", "-t4aH"),
    *("-uanm", "-xam", "-uanmO", "-xamO", "-0am", "-0amO"),
    *("-tan --tos", "-uan --tos", "-Man --tos", "-tan --cgroup", "-uan --cgroup"),
    *("-tan --inet-sockopt", "-uan --inet-sockopt", "-tanO --inet-sockopt", "-uan -mO --tos"),
    *("-xae", "-xaeO", "-xaem", "-0ae", "-0aeO", "-0aem", "-0aemO", "-uae", "-uaen", "-uaemnO"),
    *("-uaei", "-uaim", "-xai", "-xaiem", "-wae", "-waein", "-0ab", "-0aeb"),
    *("-uanm --inet-sockopt --tos --cgroup", "-xlem"),
    # filters
    "-t sport = :80",
    "-t sport = 80",
    "-t sport = :http",
    "-ta dport = :https",
    "-ta sport = http or dport = http",
    "-ta ( sport = :80 or dport = :443 ) and not src 127.0.0.9",
    "-ta sport = :80 or dport = :443 src 127.0.0.1",
    "-ta src 127.0.0.1",
    "-ta dst 127.0.0.0/8",
    "-ta dst 127/8",
    "-ta ! dst 127.0.0.0/8",
    "-ta dst [::1]",
    "-ta src [::ffff:127.0.0.1]",
    "-ta dst [::]",
    "-tua dst 0.0.0.0",
    "-A inet,unix,packet,!raw -a dst 0.0.0.0",
    "-xa sport = :80",
    "-a sport > :40000",
    "-A inet,unix,packet,mptcp -a sport < :100",
    "-ta dport >= :1024",
    "-ta dport le 1024",
    "-ta sport ne :80 and sport neq :443 and sport != 53",
    "-ta dst 127.0.0.1:80",
    "-ta dst 127.0.0.1:http",
    "-ta src *:80",
    "-ta src :443",
    "-ta dst inet:127.0.0.1",
    "-ta dst inet6:[::1]",
    "-a src inet:*",
    "-4 src inet6:*",
    "-a src unix:*",
    "-xa src @*",
    "-xa src *U_STR*",
    "-xa not src unix:/*",
    "-xa dst unix:*",
    "-xa dst unix:/*",
    "-xa autobound",
    "-ta autobound",
    "-ua not autobound",
    "-0a src link:ip",
    "-0a src link:*:lo",
    "-0a src link:all",
    "-0a autobound",
    "-ta dev lo",
    "-ta dev != lo",
    "-ua dev = lo",
    "-ua dev 0",
    "-ta fwmark 0x5ec",
    "-ta fwmark = 0xc/0xf",
    "-ta fwmark != 0",
    "-ta cgroup /sys/fs/cgroup/unified",
    "-tua cgroup != /sys/fs/cgroup/unified",
    "-wa sport = :1",
    "-wa dst 127.0.0.1",
    "-Ma sport = :8443 or dport = :8443",
    "-tMa dport eq 8443",
    "-tua not ( sport = :80 or sport = :53 )",
    "-tua ! ! sport = :80",
    "-ta src 127.0.0.1 dst 127.9.8.7",
    "-ta src 127.0.0.1 & dst 127.9.8.7 | sport == 80",
    "-ta src 127.0.0.1 && dst 127.9.8.7 || sport eq 80",
    "-ta state time-wait dst [::1]",
    "-4 state established src 127.9.8.7",
    "-tuxa src any",
    "-ta dst default",
    "-ta src 127.0.0.1/255.0.0.0",
    "-ta dport gt 0x50 dport lt 01000",
    "-xa src unix:@sockrec-held.*.u_s[et][qr]",
    "-x dport = :0",
    "-f unix -a sport = :80",
]
"""Options of which nothing changes while the workload stands still: compared byte for byte."""

MOVING = [
    *("-tane", "-tanei", "-tani", "-tanio", "-tano", "-taneimO", "-tanieom", "-Manei", "-Manie"),
    *("-tai", "-tei", "-taiO", "-tapn", "-tunap", "-tlnp", "-ulnp", "-xap", "-xlp", "-wap", "-0ap"),
    *("-taneip", "-uaneimp", "-xaepm", "-tanp --tos --cgroup --inet-sockopt -eimO", "-tMnaei"),
    *("-tnm", "-tanm", "-tanmO", "-tan --tos -m", "-t4lnm", "-t6lnm --tos", "-Manm"),
    *("-o state time-wait", "-tno state syn-recv state syn-sent", "-tune state fin-wait-1"),
    *("-tiH state established dst 127.0.0.1", "-tie dev lo", "-tieo fwmark 0x5ec", "-ti4 -m"),
]
"""Options that show clocks, or all processes: compared word for word but for these."""


NETLINK = ["-A netlink -n", "-A netlink -ne", "-A netlink -m", "-A netlink"]


def ordered(lines: list[str], words: str) -> list[str]:
    """Return the sockets, a line each with what hangs below it, in an order of our own.

    The last column is padded, but ss does not measure the last line in it, so how far depends on
    the order: where it is not empty its blanks are left out.
    """
    if re.search(r"-[a-z0-9]*[bemoipsT]|--", words):
        lines = [line.rstrip(" ") for line in lines]
    return sorted(re.sub(r"\n(?=\t)", "\v", "\n".join(lines)).split("\n"))


def check(ours: list[str], theirs: list[str]) -> None:
    """Fail with what only one has, of lines that may come several times."""
    mine, others = Counter(ours), Counter(theirs)
    wrong = [f"only ours: {line}" for line in sorted((mine - others).elements())]
    wrong += [f"only of ss: {line}" for line in sorted((others - mine).elements())]
    if wrong:
        pytest.fail("\n".join(wrong[:40]), pytrace=False)


@pytest.mark.parametrize("words", STILL)
def test_the_same_lines_as_ss_byte_for_byte(machine: Machine, words: str) -> None:
    ours, theirs = machine.ours(*words.split()), machine.printed[words]
    check(ordered(ours, words), ordered(theirs, words))
    assert ours[0].split() == theirs[0].split() or "H" in words


MOVED = (
    *("retrans", "backoff", "rto", "unacked", "lost", "segs_out", "data_segs_out", "bytes_sent"),
    *("bytes_retrans", "cwnd", "ssthresh", "minrtt"),
)
"""Words of which the numbers go on changing while a segment is sent again and again."""


def without_clocks(lines: list[str]) -> list[str]:
    # The two ends of a full window go on probing it.
    lines = [line for line in ordered(lines, "-i") if not re.search(r"(^| )(4096|4710\d)\b", line)]
    text = "\n".join(lines)
    text = re.sub(r" (lastsnd|lastrcv|lastack|busy):\w+", "", text)
    text = re.sub(r"(limited:)\w+\([\d.]+%\)", r"\1", text)
    text = re.sub(r"timer:\((\w+),[^,]*,\d+\)", r"timer:(\1)", text)
    text = re.sub(rf" ({'|'.join(MOVED)}):\S+", "", text)
    text = re.sub(r",d\d+\)", ")", text)
    text = re.sub(r" (send|pacing_rate) \S+", "", text)
    text = re.sub(r" md5keys:\S*", "", text)
    lines = [re.sub(r"users:\(.*?\)\)", first_user, line) for line in text.split("\n")]
    return sorted(re.sub(r"[ \v]+", " ", line).strip() for line in lines)


def first_user(match: re.Match[str]) -> str:
    """Keep the oldest process and its lowest descriptor, which are recorded."""
    found = re.findall(r'\("(.*?)",pid=(\d+),fd=(\d+)\)', match[0])
    comm, pid, fd = min(found, key=lambda one: (int(one[1]), int(one[2])))
    return f'users:(("{comm}",pid={pid},fd={fd}))'


@pytest.mark.parametrize("words", MOVING)
def test_the_same_words_as_ss_but_for_clocks(machine: Machine, words: str) -> None:
    ours, theirs = machine.ours(*words.split()), machine.printed[words]
    check(without_clocks(ours), without_clocks(theirs))
    assert len(ours) > 1


@pytest.mark.parametrize("words", NETLINK)
def test_the_same_netlink_sockets_as_ss(machine: Machine, words: str) -> None:
    def of_ours(lines: list[str]) -> list[str]:
        wanted = rf"[:/]({'|'.join(map(str, machine.ports))}|kernel)\s"
        return sorted({re.sub(r"[ \t]+", " ", line) for line in lines if re.search(wanted, line)})

    assert of_ours(machine.ours(*words.split())) == of_ours(machine.printed[words])


HOSTS = [
    *("127.0.0.1", "127.0.0.0/8", "127.9.8.7", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"),
    *("127.0.0.1:80", ":443", "*", "*:80", "127.0.0.0/30", "10.0.0.0/8", "[::ffff:127.0.0.0/104]"),
    *("[fe80::/10]", "128.0.0.0/1", "[::/96]"),
]
PORTS = [":80", ":443", ":53", ":8443", ":0", ":32768", ":45000", ":65535"]
LEAVES = st.one_of(
    st.builds(" ".join, st.tuples(st.sampled_from(["src", "dst"]), st.sampled_from(HOSTS))),
    st.builds(
        " ".join,
        st.tuples(
            st.sampled_from(["sport", "dport"]),
            st.sampled_from("= == eq != ne neq > gt < lt >= ge geq <= le leq".split()),
            st.sampled_from(PORTS),
        ),
    ),
    st.sampled_from(["dev lo", "dev != lo", "fwmark 0x5ec", "fwmark != 0/0xf", "fwmark 4/4"]),
)


SYN_RECV = ["state", "syn-recv", "state", "unconnected"]


def trees(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.builds(
        " ".join,
        st.tuples(leaves, st.sampled_from(["and", "&", "or", "||", ""]), leaves),
    )
    negated = st.builds("{} {}".format, st.sampled_from(["not", "!"]), leaves)
    return st.one_of(joined, negated, joined.map("( {} )".format))


def test_any_filter_lets_the_same_rows_through_as_the_kernel_and_ss(machine: Machine) -> None:
    """ss has the kernel's bytecode filter first, and filters what comes once more.

    There it does not look at families: negated, and with dev, of which the kernel is not asked,
    addresses of zeros are those of both, which we do not imitate.
    """
    states = "state established state listening state unconnected"
    kept: set[int] = set()
    half_open = {line.split()[3].rpartition(":")[2] for line in machine.ours("-Htan", *SYN_RECV)}

    def settled(lines: list[str]) -> list[str]:
        """Leave out the listeners whose connections are half open, which end some time."""
        words = (re.split(r"[ :]+", line) for line in lines)
        return sorted(" ".join(one) for one in words if not half_open & set(one))

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.recursive(LEAVES, trees, max_leaves=8))
    def check_one(tree: str) -> None:
        words = set(tree.split())
        assume(not {"dev", "not", "!"} & words or not {"[::]", "[::/96]", "0.0.0.0"} & words)
        ours = settled(machine.ours("-Htuan", *states.split(), *tree.split()))
        theirs = settled(printed(machine.ss, f"-Htuan {states} {tree}"))
        note(f"{tree}\n{ours}\n{theirs}")
        check(ours, theirs)
        kept.add(len(theirs))

    check_one()
    assert len(kept) > 5


OWN_LEAVES = st.one_of(
    LEAVES,
    st.sampled_from(
        [
            *("autobound", "src unix:*U_STR*", "dst unix:*", "src link:ip", "src link:*:lo"),
            *("src netlink:rtnl", "dst netlink:*", "src netlink:*:kernel", "cgroup /x", "pid 1"),
            *("process python3", "process != python", "sport = :0", "dport < :0", "src vsock:*"),
            *("dst [::ffff:0:0/96]", "src 0/0", "sport >= :70000"),
        ]
    ),
)
STATE_WORDS = st.sampled_from(
    ["", "state established", "state listening", "exclude time-wait", "state syn-recv", "state big"]
)


class Kernel:
    """What the kernel gives of its inet tables, as the recorder asks it."""

    def __init__(self) -> None:
        self._diag = DiagSocket()
        self.release = facts.release()
        self._makers = BatchMaker(SOCKETS)

    def close(self) -> None:
        self._diag.close()

    def dump(self, kind: int, body: bytes, decode: Any, waiting: Waiting | None = None) -> Dump:
        return self._diag.dump(kind, body, decode, waiting)

    def read_file(self, name: str) -> bytes:
        raise FileNotFoundError(name)

    def rows(self, found: Filter | None) -> pa.Table:
        steps = Steps(QUERIES["inet"] - QUERIES["sctp"] - QUERIES["raw"], self.release, found)
        steps.begin()
        for step in steps:
            assert step.read(self, 1, 0).dump.outcome.name in ("ok", "unavailable")
        steps.finish()
        batches = [
            self._makers.make(each.rows, each.decoder.rows()) for each in steps.gathered.values()
        ]
        return pa.Table.from_batches(batches, schema=self._makers.schema).unify_dictionaries()


def passing(table: pa.Table, found: Filter, known: Known) -> set[int]:
    """Return the cookies of the rows that are let through, looked at one batch after another."""
    cookies: set[int] = set()
    for batch in table.to_batches():
        mask = pa.array(matching(found, batch, known))
        cookies.update(batch.column("cookie").filter(mask).to_pylist())
    return cookies


def test_any_filter_lets_the_same_rows_through_by_bytecode_in_memory_and_by_sql(
    machine: Machine, request: pytest.FixtureRequest
) -> None:
    """That SQL is what ss prints is shown above."""
    engine = machine.recorded.rows.engine
    recorded = engine.table(f"SELECT cookie, state, {', '.join(LOOKED_AT)} FROM raw.sockets")
    ranges = engine.table("SELECT netns, low, high FROM port_ranges").to_pylist()
    known = Known({row["netns"]: (row["low"], row["high"]) for row in ranges})
    kernel = Kernel()
    request.addfinalizer(kernel.close)
    kept: set[int] = set()

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(STATE_WORDS, st.recursive(OWN_LEAVES, trees, max_leaves=8))
    def check_one(states: str, tree: str) -> None:
        text = f"{states} {tree}"
        try:
            found = parse(text)
        except FilterError:  # a host after that of another family
            assume(False)
        asked = f"SELECT cookie FROM sockets WHERE {filtered(engine, text).sockets}"
        by_sql = engine.table(asked).column("cookie").to_pylist()
        assert passing(recorded, found, known) == set(by_sql)

        before, given, after = kernel.rows(None), kernel.rows(found), kernel.rows(None)
        unchanged = {tuple(row.values()) for row in before.select(IDENTITY).to_pylist()} & {
            tuple(row.values()) for row in after.select(IDENTITY).to_pylist()
        }
        stays = {row[0] for row in unchanged}
        wanted = passing(after, found, known) & stays
        assert passing(given, found, known) & stays == wanted
        if all(isinstance(leaf, Host | Port) for leaf in leaves(found.tree)):
            assert set(given.column("cookie").to_pylist()) & stays == wanted
        kept.add(len(wanted))

    check_one()
    assert len(kept) > 5


IDENTITY = ["cookie", "state", "local_addr", "local_port", "peer_addr", "peer_port"]


def test_there_are_as_many_combinations_as_promised() -> None:
    assert len({*STILL, *MOVING}) >= 200
