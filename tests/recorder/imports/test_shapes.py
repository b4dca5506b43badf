"""The shapes in which logs of ss and netstat are found, each in a text of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorder.support.imported import rows_of, samples_of

DATE = "Mon Jan  1 12:00:00 UTC 2024\n"
NOON = 1_704_110_400_000_000


def test_one_line_with_every_option(tmp_path: Path) -> None:
    (row,) = rows_of(
        tmp_path,
        DATE + "Netid State  Recv-Q Send-Q Local Address:Port  Peer Address:PortProcess\n"
        'tcp   ESTAB  1      2          192.0.2.1:443   198.51.100.7:50000 users:(("nginx",pid=8,'
        'fd=11),("nginx",pid=7,fd=12)) timer:(keepalive,1min54sec,2) uid:33 ino:1234 sk:1f '
        "cgroup:/system.slice/nginx.service <-> skmem:(r1,rb2,t3,tb4,f5,w6,o7,bl8,d9) ts sack ecn "
        "cubic wscale:7,8 rto:204 backoff:1 rtt:1.767/0.191 ato:40 mss:1348 pmtu:1400 rcvmss:536 "
        "advmss:1349 cwnd:40 ssthresh:20 bytes_sent:100 bytes_retrans:3 bytes_acked:97 "
        "bytes_received:55 segs_out:9 segs_in:8 data_segs_out:7 data_segs_in:6 send 244119977bps "
        "lastsnd:11 lastrcv:12 lastack:13 pacing_rate 800bps/1600bps delivery_rate 2400bps "
        "delivered:5 app_limited busy:48ms rwnd_limited:20ms(41.7%) unacked:2 retrans:1/4 lost:1 "
        "rcv_rtt:1.551 rcv_space:466931 rcv_ssthresh:2335751 notsent:6 minrtt:0.105 "
        "snd_wnd:65536\n",
    )
    assert row == {
        "netid": "tcp",
        "family": "inet",
        "state": "ESTAB",
        "recv_q": 1,
        "send_q": 2,
        "local_addr": "192.0.2.1",
        "local_port": 443,
        "peer_addr": "198.51.100.7",
        "peer_port": 50000,
        "pid": 7,
        "fd": 12,
        "comm": "nginx",
        "holders": 2,
        "owner_by": "fd",
        "timer": "keepalive",
        "expires_ms": 114_000,
        "retrans": 2,
        "uid": 33,
        "inode": 1234,
        "cookie": 0x1F,
        "cgroup": "/system.slice/nginx.service",
        "shutdown": 0,
        "rmem_alloc": 1,
        "rcvbuf": 2,
        "wmem_alloc": 3,
        "sndbuf": 4,
        "fwd_alloc": 5,
        "wmem_queued": 6,
        "optmem": 7,
        "backlog": 8,
        "drops": 9,
        "options": 1 | 2 | 4 | 8,
        "cong": "cubic",
        "snd_wscale": 7,
        "rcv_wscale": 8,
        "rto_us": 204_000,
        "backoff": 1,
        "rtt_us": 1767,
        "rttvar_us": 191,
        "ato_us": 40_000,
        "snd_mss": 1348,
        "pmtu": 1400,
        "rcv_mss": 536,
        "advmss": 1349,
        "snd_cwnd": 40,
        "snd_ssthresh": 20,
        "bytes_sent": 100,
        "bytes_retrans": 3,
        "bytes_acked": 97,
        "bytes_received": 55,
        "segs_out": 9,
        "segs_in": 8,
        "data_segs_out": 7,
        "data_segs_in": 6,
        "last_data_sent_ms": 11,
        "last_data_recv_ms": 12,
        "last_ack_recv_ms": 13,
        "pacing_rate": 100,
        "max_pacing_rate": 200,
        "delivery_rate": 300,
        "delivered": 5,
        "delivery_rate_app_limited": 1,
        "busy_time_us": 48_000,
        "rwnd_limited_us": 20_000,
        "unacked": 2,
        "tcpi_retrans": 1,
        "total_retrans": 4,
        "lost": 1,
        "sacked": 0,
        "rcv_rtt_us": 1551,
        "rcv_space": 466_931,
        "rcv_ssthresh": 2_335_751,
        "notsent_bytes": 6,
        "min_rtt_us": 105,
        "snd_wnd": 65_536,
    }


def test_what_is_not_in_a_line_is_not_in_its_row(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, DATE + "TIME-WAIT 0 0 192.0.2.1:443 198.51.100.7:50000\n")
    assert set(row) == {
        *("netid", "family", "state", "recv_q", "send_q"),
        *("local_addr", "local_port", "peer_addr", "peer_port"),
    }


def test_wrapped_lines_are_one_socket(tmp_path: Path) -> None:
    first, second = rows_of(
        tmp_path,
        DATE + "State    Recv-Q Send-Q    Local Address:Port      Peer Address:Port\n"
        "ESTAB    0      0           192.0.2.2:4500       192.0.2.1:4500\n"
        'users:(("with space (x)",pid=1234,fd=3))\n'
        "        skmem:(r0,rb212992,t0,tb212992,f4096,w0,o0,bl0)\n"
        "\t ts sack cubic wscale:9,9 rtt:78.4/36.2 rto:201\n"
        "\t cwnd:10 retrans:0/1195\n"
        "CLOSE-WAIT 5    0           192.0.2.2:4501\n"
        "                            192.0.2.1:4501\n",
    )
    assert (first["comm"], first["rcvbuf"], first["total_retrans"]) == (
        "with space (x)",
        212_992,
        1195,
    )
    assert "drops" not in first  # a kernel that does not tell
    assert (second["local_port"], second["peer_port"], second["recv_q"]) == (4501, 4501, 5)


def test_old_words_rates_with_units_and_users_without_names(tmp_path: Path) -> None:
    (row,) = rows_of(
        tmp_path,
        DATE + "State      Recv-Q Send-Q     Local Address:Port         Peer Address:Port\n"
        'ESTAB      0      0          ::ffff:192.0.2.1:80      ::ffff:192.0.2.2:999 users:(("a",3,'
        "4)) timer:(keepalive,9.604ms,0) ino:5 sk:ffff880036d5b480\n"
        "\t mem:(r1,w2,f3,t4) cubic wscale:7,7 rto:204 rtt:0.98/0.49 cwnd:10 send 118.2Mbps "
        "pacing_rate 236.4Mbps rcv_space:29200\n",
    )
    assert (row["pid"], row["fd"], row["comm"]) == (3, 4, "a")
    assert (row["rmem"], row["wmem"], row["fmem"], row["tmem"]) == (1, 2, 3, 4)
    assert row["pacing_rate"] == 29_550_000
    assert row["cookie"] == 0xFFFF880036D5B480
    assert row["expires_ms"] == 9604
    assert (row["family"], row["local_addr"]) == ("inet6", "::ffff:192.0.2.1")


@pytest.mark.parametrize(
    ("text", "family", "address"),
    [
        ("LISTEN 0 128 *:22 *:*\nLISTEN 0 128 :::80 :::*", "inet", "0.0.0.0"),
        ("LISTEN 0 128 *:22 *:*\nLISTEN 0 128 0.0.0.0:80 0.0.0.0:*", "inet6", "::"),
    ],
    ids=["before iproute2 4.15", "since"],
)
def test_any_address_is_of_the_family_that_this_ss_means(
    text: str, family: str, address: str, tmp_path: Path
) -> None:
    row = rows_of(tmp_path, f"{DATE}{text}\n")[0]
    assert (row["family"], row["local_addr"]) == (family, address)


@pytest.mark.parametrize(
    ("text", "address", "dev"),
    [
        ("UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*", "127.0.0.53", "lo"),
        ("UNCONN 0 0 [fe80::1]%eth0:546 [::]:*", "fe80::1", "eth0"),
        ("UNCONN 0 0 fe80::1%eth0:546 :::*", "fe80::1", "eth0"),
    ],
)
def test_interfaces(text: str, address: str, dev: str, tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, f"{DATE}{text}\n")
    assert (row["local_addr"], row["dev"], row["netid"]) == (address, dev, "udp")


def test_names_of_services_and_hosts(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, f"{DATE}ESTAB 0 0 web-1.example:ssh client:50000\n")
    assert (row["local_addr"], row["local_port"]) == ("web-1.example", 22)
    assert row["family"] is None


def test_columns_that_touch(tmp_path: Path) -> None:
    (row,) = rows_of(
        tmp_path, f'{DATE}LISTEN0 128 0.0.0.0:22 0.0.0.0:*users:(("sshd",pid=1,fd=3))\n'
    )
    assert (row["state"], row["local_port"], row["peer_port"], row["pid"]) == ("LISTEN", 22, 0, 1)


def test_other_families(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        DATE + "Netid State  Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
        "nl    UNCONN 0      0                rtnl:2484             *        skmem:(r0,rb1,t0,tb2,"
        "f0,w0,o0,bl0,d0)\n"
        "nl    UNCONN 0      0                rtnl:kernel           *\n"
        "nl    UNCONN 0      0                uevent:systemd-udevd/312 *\n"
        "p_raw UNCONN 0      0                arp:eth0              *\n"
        'u_str LISTEN 0      128   /run/a b/c 12345   * 0     users:(("dockerd",pid=9,fd=4)) <->\n'
        "u_dgr ESTAB  0      0     @x 77   /run/peer 78\n"
        "v_str ESTAB  0      0     2:1023   3:976\n"
        "icmp6 UNCONN 0      0     *%eth0:ipv6-icmp  *:*\n"
        "udp   UNCONN 0      0     0.0.0.0:68 0.0.0.0:*\n",
    )
    netlink, kernel, named, packet, unix, datagram, vsock, raw, udp = rows
    assert (netlink["local_addr"], netlink["local_id"], netlink["sndbuf"]) == ("rtnl", 2484, 2)
    assert (kernel["local_id"], named["local_id"]) == (0, 312)
    assert (packet["family"], packet["local_addr"], packet["dev"]) == ("packet", "arp", "eth0")
    assert (unix["local_addr"], unix["inode"], unix["peer_inode"]) == ("/run/a b/c", 12345, None)
    assert (unix["pid"], unix["shutdown"]) == (9, 0)
    assert (datagram["local_addr"], datagram["peer_addr"]) == ("@x", "/run/peer")
    assert (vsock["local_addr"], vsock["local_id"], vsock["peer_id"]) == ("2", 1023, 976)
    assert (raw["netid"], raw["dev"]) == ("raw", "eth0")
    assert udp["netid"] == "udp"


def test_a_state_that_was_asked_for_has_no_column(tmp_path: Path) -> None:
    text = (
        "Netid    Recv-Q     Send-Q            Local Address:Port             Peer Address:Port\n"
        "tcp      0          7               192.0.2.250:40654         192.0.2.251:9000\n"
    )
    (row,) = rows_of(tmp_path, DATE + text)
    assert "state" not in row
    assert row["send_q"] == 7
    asked = "# ss -o state established -i '( dport = :9000 )'\n"
    samples, _ = samples_of(tmp_path, DATE + asked + text)
    (table,) = samples[0].tables
    assert table.rows[0].row["state"] == "ESTAB"
    assert table.command is not None
    assert table.command.selects


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ESTAB 0 0 192.0.2.1:1 192.0.2.2:2\nUNCONN 0 0 0.0.0.0:5 0.0.0.0:*", "udp"),
        ("ESTAB 0 0 192.0.2.1:1 192.0.2.2:2\nLISTEN 0 0 0.0.0.0:5 0.0.0.0:*", "tcp"),
        ("ESTAB 0 0 192.0.2.1:1 192.0.2.2:2 rto:204 cwnd:10", "tcp"),
        ("$ ss -nump\nESTAB 0 0 192.0.2.1:1 192.0.2.2:2", "udp"),
        ("ESTAB 0 0 192.0.2.1:1 192.0.2.2:2", "tcp"),
    ],
)
def test_the_kind_of_sockets_without_netid(text: str, kind: str, tmp_path: Path) -> None:
    assert rows_of(tmp_path, f"{DATE}{text}\n")[0]["netid"] == kind
    row = rows_of(tmp_path, f"{DATE}{text}\n", kind="dccp")[0]
    assert row["netid"] == "dccp"


def test_netstat(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        DATE + "$ netstat -tanpoe\n"
        "Active Internet connections (servers and established)\n"
        "Proto Recv-Q Send-Q Local Address Foreign Address State User Inode PID/Program name\n"
        "tcp    41480    5 ::ffff:192.0.2.35:10911    ::ffff:198.51.100.145:59666   ESTABLISHED "
        "1000 4711 18554/java  keepalive (6995.89/0/1)\n"
        "tcp6   1    0 :::80   :::*   LISTEN  0 12 7/nginx: worker pr off (0.00/0/0)\n"
        "tcp    0    0 192.0.2.1:1   192.0.2.2:2   TIME_WAIT   -   timewait (59.9/0/0)\n"
        "udp    0    0 0.0.0.0:68    0.0.0.0:*     33/dhclient\n"
        "Active UNIX domain sockets (servers and established)\n"
        "Proto RefCnt Flags       Type       State         I-Node   PID/Program name    Path\n"
        "unix  2      [ ACC ]     STREAM     LISTENING     12345    1/systemd           /run/a b\n"
        "unix  3      [ ]         DGRAM                    12346    -\n",
    )
    java, nginx, wait, udp, listener, datagram = rows
    assert (java["recv_q"], java["uid"], java["inode"], java["pid"]) == (41480, 1000, 4711, 18554)
    assert (java["comm"], java["timer"], java["expires_ms"]) == ("java", "keepalive", 6_995_890)
    assert (nginx["comm"], nginx["state"], nginx["recv_q"]) == ("nginx: worker pr", "LISTEN", 1)
    assert nginx["send_q"] is None  # netstat does not know the backlog
    assert nginx["timer"] is None
    assert (wait["state"], wait["timer"], wait["expires_ms"]) == ("TIME-WAIT", "timewait", 59_900)
    assert (udp["state"], udp["comm"]) == ("UNCONN", "dhclient")
    assert (listener["state"], listener["local_addr"]) == ("LISTEN", "/run/a b")
    assert (datagram["netid"], datagram["inode"]) == ("u_dgr", 12346)


def test_lines_that_are_no_sockets_are_listed_and_change_none(tmp_path: Path) -> None:
    samples, unread = samples_of(
        tmp_path,
        DATE + "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
        "ESTAB 0 0 192.0.2.1:1 192.0.2.2:2\n"
        "bash: note: everything is well\n"
        "ESTAB 0 zero 192.0.2.1:1 192.0.2.2:2\n"
        "ESTAB 0 0 192.0.2.1:1 192.0.2.2:99999\n"
        "Total: 185\n",
    )
    (table,) = samples[0].tables
    assert [told.row.get("cong") for told in table.rows] == [None]
    assert table.broken == 2
    assert unread.count == 4
    assert [number for _, number, _ in unread.first] == [4, 5, 6, 7]


def test_only_the_first_unread_lines_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    _, unread = samples_of(tmp_path, "nonsense here\n" * 1000)
    assert (unread.count, len(unread.first)) == (1000, 5)


def test_words_of_another_ss_are_counted(tmp_path: Path) -> None:
    samples, unread = samples_of(
        tmp_path, f"{DATE}ESTAB 0 0 192.0.2.1:1 192.0.2.2:2 cubic cwnd:10 novelty:5 rto:204\n"
    )
    row = samples[0].tables[0].rows[0].row
    assert unread.words == {"novelty": 1}
    assert (row["snd_cwnd"], row["rto_us"]) == (10, 204_000)


def test_a_word_that_the_log_has_somewhere_is_0_where_it_is_left_out(tmp_path: Path) -> None:
    first, second = rows_of(
        tmp_path,
        f"{DATE}ESTAB 0 0 192.0.2.1:1 192.0.2.2:2 cwnd:10 bytes_acked:7\n"
        "ESTAB 0 0 192.0.2.1:1 192.0.2.2:3 cwnd:10\n",
    )
    assert (first["bytes_acked"], second["bytes_acked"]) == (7, 0)
    assert "rcv_ooopack" not in second


def test_samples_begin_with_dates_and_have_several_tables(tmp_path: Path) -> None:
    header = "State Recv-Q Send-Q Local Address:Port Peer Address:Port\n"
    samples, unread = samples_of(
        tmp_path,
        "2024-01-01T12:00:00+00:00\n"
        f"{header}LISTEN 0 1 0.0.0.0:1 0.0.0.0:*\n{header}UNCONN 0 0 0.0.0.0:2 0.0.0.0:*\n"
        f"===== 2024-01-01 12:00:05.5 =====\n{header}"
        "1704110410\n"
        f"{header}LISTEN 0 1 0.0.0.0:1 0.0.0.0:*\n",
    )
    assert unread.count == 0
    assert [sample.time_us for sample in samples] == [NOON, NOON + 5_500_000, NOON + 10_000_000]
    assert [[len(t.rows) for t in sample.tables] for sample in samples] == [[1, 1], [0], [1]]
    assert [told.row["netid"] for t in samples[0].tables for told in t.rows] == ["tcp", "udp"]


@pytest.mark.parametrize("stamp", ["[2024/1/1 12:00:0{n}] ", "2024-01-01T12:00:0{n}Z "])
def test_dates_before_each_line(stamp: str, tmp_path: Path) -> None:
    lines = ("Netid State Recv-Q Send-Q Local Peer", "tcp ESTAB 0 0 192.0.2.1:1 192.0.2.2:2", "")
    text = "".join(stamp.format(n=n) + line + "\n" for n in (1, 3) for line in lines)
    samples, unread = samples_of(tmp_path, text)
    assert unread.count == 0
    assert [sample.time_us for sample in samples] == [NOON + 1_000_000, NOON + 3_000_000]


def test_without_a_header_a_date_with_nothing_after_it_is_an_empty_sample(tmp_path: Path) -> None:
    line = "ESTAB 0 0 192.0.2.1:1 192.0.2.2:2\n"
    samples, _ = samples_of(
        tmp_path, f"1704110400\n{line}1704110401\n1704110402\n{line}1704110403\n"
    )
    assert [sum(len(t.rows) for t in sample.tables) for sample in samples] == [1, 0, 1]


def test_escapes_of_a_terminal_are_left_out(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, DATE + "\x1b[1mESTAB\x1b[0m 0 0 192.0.2.1:1 192.0.2.2:2\r\n")
    assert row["peer_port"] == 2
