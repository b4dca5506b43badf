"""No text makes an import fail otherwise than by an error that says what to do."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.imports.identity import Identities
from recorder.imports.log import LogError, step_of
from recorder.imports.recording import columns_of
from tests.recorder.support.imported import samples_of

LINES = [
    "Mon Jan  1 12:00:00 UTC 2024",
    "2024-01-01 12:00:00.5",
    "1704110400",
    "12:00:05",
    "Netid State Recv-Q Send-Q Local Address:Port Peer Address:Port",
    "State Recv-Q Send-Q Local Address:Port Peer Address:Port",
    "Netid Recv-Q Send-Q Local Address:Port Peer Address:Port",
    "[2024/1/1 12:00:00] tcp ESTAB 0 0 192.0.2.1:1 [2001:db8::1%eth0]:443 timer:(on,204ms,0)",
    'ESTAB 0 0 192.0.2.1:1 192.0.2.2:2 users:(("a",pid=1,fd=2)) ino:5 sk:f cgroup:/x <->',
    "\t skmem:(r0,rb1,t2,tb3,f4,w5,o6,bl7,d8) ts sack cubic wscale:7,7 rto:204 rtt:1.5/2 cwnd:10",
    "\t bytes_acked:1 send 1.5Mbps pacing_rate 1bps/2bps delivery_rate 3bps busy:1ms(2%) minrtt:1",
    "\t dctcp:(ce_state:1,alpha:2,ab_ecn:3,ab_tot:4) bbr:(bw:8bps,mrtt:1,pacing_gain:2.5)",
    "u_str LISTEN 0 128 /run/x 12345 * 0 ino:5 dev:0/1 peers: 1 2",
    "nl UNCONN 0 0 rtnl:kernel *",
    "p_raw UNCONN 0 0 *:eth0 *",
    "v_str ESTAB 0 0 2:1 3:2",
    "Active Internet connections (servers and established)",
    "tcp 1 2 192.0.2.1:1 192.0.2.2:2 ESTABLISHED 1000 5 7/java keepalive (1.5/0/0)",
    "unix  2 [ ACC ] STREAM LISTENING 12345 1/systemd /run/a",
    "# ss -tan state established",
]
PIECES = st.sampled_from(
    [
        *sorted({word for line in LINES for word in line.split()}),
        "99999999999999999999",
        "-1",
        "1e999",
        "٣",
        "\x00",
        "(",
        ")",
        '"',
        "users:((",
        "nan",
        "25:61",
    ]
)
LINE = st.one_of(
    st.sampled_from(LINES),
    st.lists(PIECES, max_size=12).map(" ".join),
    st.tuples(st.sampled_from(LINES), st.integers(0, 80), st.text(max_size=6)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
    ),
    st.text(max_size=60),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINE, max_size=14))
def test_any_lines_are_read_or_listed(lines: list[str]) -> None:
    text = "\n".join(line.encode("utf-8", "replace").decode() for line in lines)
    with tempfile.TemporaryDirectory() as directory:
        try:
            samples, unread = samples_of(Path(directory), text)
        except LogError as error:
            said = str(error)
            samples = []
        else:
            said = f"--{unread.count}"
    assert "--" in said
    if not samples:
        return
    assert unread.count <= len(text.splitlines()) + 1
    identities = Identities()
    for number, sample in enumerate(samples):
        for table in sample.tables:
            rows = [told.row for told in table.rows]
            for row in rows:
                identities.give(step_of(row), [row], number)
                assert isinstance(row["cookie"], int)
            for column in columns_of("sockets", rows).values():
                assert len(column) == len(rows)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(line=st.text(alphabet="0123456789:-/., TZ+UTCJanMonPMa[]", max_size=40))
def test_any_date_is_read_or_is_none(line: str) -> None:
    from datetime import UTC, datetime

    from recorder.imports.moments import MomentError, Moments

    for moments in (Moments(), Moments(UTC, datetime(2024, 1, 1))):
        try:
            moments.of_line(line)
            moments.before(line)
        except MomentError as error:
            said = str(error)
        else:
            said = "--timezone"
        assert "--timezone" in said
