"""What ss -i prints of TCP: struct tcp_info, congestion control and upper layers."""

from __future__ import annotations

from analyzer.ss.words import Row, signed, text, whole

_OPTIONS = ((1, "ts"), (2, "sack"), (8, "ecn"), (16, "ecnseen"), (32, "fastopen"))
_NO_RTO, _NO_SSTHRESH, _NO_RTT = 3_000_000, 0xFFFF, 0x7FFFFFFF
_TLS_VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}
_TLS_CIPHERS = {51: "aes-gcm-128", 52: "aes-gcm-256"}
_TLS_CONF = {1: "none", 2: "sw", 3: "hw", 4: "hw-record"}
_SUBFLOW_FLAGS = "MmJjBbecv"

# (column, word, sign): printed unless 0
_SIZES = (
    ("snd_mss", "mss", True),
    ("pmtu", "pmtu", False),
    ("rcv_mss", "rcvmss", True),
    ("advmss", "advmss", True),
    ("snd_cwnd", "cwnd", False),
)
_TOTALS = (
    *("bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received"),
    *("segs_out", "segs_in", "data_segs_out", "data_segs_in"),
)
_CLOCKS = (
    ("last_data_sent_ms", "lastsnd"),
    ("last_data_recv_ms", "lastrcv"),
    ("last_ack_recv_ms", "lastack"),
)


def bandwidth(bits: float, *, numeric: bool) -> str:
    """Return bits per second."""
    if numeric:
        return f"{bits:.0f}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if bits >= unit:
            return f"{bits / unit:.3g}{letter}"
    return f"{bits:g}"


def internals(row: Row, *, options: bool, numeric: bool) -> str:
    """Return all that -i adds to the line of a socket; ``options`` are those of -o."""
    told = _info(row, options=options, numeric=numeric) if row.get("rto_us") is not None else ""
    if row.get("md5_keys"):
        told += f" md5keys:{row['md5_keys']}"  # the keys themselves are never recorded
    return told + _upper_layer(row)


def _info(row: Row, *, options: bool, numeric: bool) -> str:
    told = []
    bits = whole(row, "options")
    if options:
        told += [word for bit, word in _OPTIONS if bits & bit]
    if row.get("cong"):
        told.append(text(row, "cong")[:15])
    if bits & 4:
        told.append(f"wscale:{whole(row, 'snd_wscale')},{whole(row, 'rcv_wscale')}")
    if row.get("rto_us") and row["rto_us"] != _NO_RTO:
        told.append(f"rto:{_thousandth(row, 'rto_us')}")
    if row.get("backoff"):
        told.append(f"backoff:{row['backoff']}")
    if row.get("rtt_us"):
        told.append(f"rtt:{_thousandth(row, 'rtt_us')}/{_thousandth(row, 'rttvar_us')}")
    if row.get("ato_us"):
        told.append(f"ato:{_thousandth(row, 'ato_us')}")
    for column, word, sign in _SIZES:
        if value := whole(row, column):
            told.append(f"{word}:{signed(value) if sign else value}")
    if 0 < whole(row, "snd_ssthresh") < _NO_SSTHRESH:
        told.append(f"ssthresh:{row['snd_ssthresh']}")
    told += [f"{name}:{_unsigned(row, name)}" for name in _TOTALS if row.get(name)]
    told += _congestion(row, numeric)
    told += _rates(row, numeric)
    told += _losses(row)
    return "".join(f" {word}" for word in told)


def _rates(row: Row, numeric: bool) -> list[str]:
    told = []
    rtt = float(whole(row, "rtt_us"))
    if row.get("vegas_enabled") and whole(row, "vegas_rtt_us") not in (0, _NO_RTT):
        rtt = float(whole(row, "vegas_rtt_us"))
    if rtt > 0 and row.get("snd_mss") and row.get("snd_cwnd"):
        speed = float(whole(row, "snd_cwnd")) * float(whole(row, "snd_mss")) * 8000000.0 / rtt
        told.append(f"send {bandwidth(speed, numeric=numeric)}bps")
    told += [f"{word}:{row[column]}" for column, word in _CLOCKS if row.get(column)]
    if row.get("pacing_rate"):
        pacing = bandwidth(_unsigned(row, "pacing_rate") * 8.0, numeric=numeric)
        told.append(f"pacing_rate {pacing}bps")
        if row.get("max_pacing_rate"):
            most = bandwidth(_unsigned(row, "max_pacing_rate") * 8.0, numeric=numeric)
            told[-1] += f"/{most}bps"
    if row.get("delivery_rate"):
        rate = bandwidth(_unsigned(row, "delivery_rate") * 8.0, numeric=numeric)
        told.append(f"delivery_rate {rate}bps")
    told += [f"{name}:{row[name]}" for name in ("delivered", "delivered_ce") if row.get(name)]
    if row.get("delivery_rate_app_limited"):
        told.append("app_limited")
    if busy := _unsigned(row, "busy_time_us"):
        told.append(f"busy:{busy // 1000}ms")
        for name in ("rwnd_limited", "sndbuf_limited"):
            if limited := _unsigned(row, f"{name}_us"):
                told.append(f"{name}:{limited // 1000}ms({100.0 * limited / busy:.1f}%)")
    return told


def _losses(row: Row) -> list[str]:
    told = []
    if row.get("unacked"):
        told.append(f"unacked:{row['unacked']}")
    if row.get("tcpi_retrans") or row.get("total_retrans"):
        told.append(f"retrans:{whole(row, 'tcpi_retrans')}/{whole(row, 'total_retrans')}")
    if row.get("lost"):
        told.append(f"lost:{row['lost']}")
    if row.get("sacked") and row["state"] != "LISTEN":
        told.append(f"sacked:{row['sacked']}")
    told += [f"{name}:{row[name]}" for name in ("dsack_dups", "fackets") if row.get(name)]
    if whole(row, "reordering") != 3:
        told.append(f"reordering:{signed(whole(row, 'reordering'))}")
    if row.get("reord_seen"):
        told.append(f"reord_seen:{signed(whole(row, 'reord_seen'))}")
    if row.get("rcv_rtt_us"):
        told.append(f"rcv_rtt:{_thousandth(row, 'rcv_rtt_us')}")
    if row.get("rcv_space"):
        told.append(f"rcv_space:{signed(whole(row, 'rcv_space'))}")
    if row.get("rcv_ssthresh"):
        told.append(f"rcv_ssthresh:{row['rcv_ssthresh']}")
    if row.get("notsent_bytes"):
        told.append(f"notsent:{row['notsent_bytes']}")
    if row.get("min_rtt_us"):
        told.append(f"minrtt:{_thousandth(row, 'min_rtt_us')}")
    told += [f"{name}:{row[name]}" for name in ("rcv_ooopack", "snd_wnd") if row.get(name)]
    return told


def _congestion(row: Row, numeric: bool) -> list[str]:
    told = []
    if row.get("dctcp_enabled"):
        told.append(
            f"dctcp:(ce_state:{whole(row, 'dctcp_ce_state')},alpha:{whole(row, 'dctcp_alpha')},"
            f"ab_ecn:{whole(row, 'dctcp_ab_ecn')},ab_tot:{whole(row, 'dctcp_ab_tot')})"
        )
    elif row.get("dctcp_enabled") is not None:
        told.append("dctcp:fallback_mode")
    if row.get("bbr_bw") is not None:
        bw = bandwidth(_unsigned(row, "bbr_bw") * 8.0, numeric=numeric)
        bbr = f"bbr:(bw:{bw}bps,mrtt:{_thousandth(row, 'bbr_min_rtt_us')}"
        for name in ("pacing_gain", "cwnd_gain"):
            if gain := whole(row, f"bbr_{name}"):
                bbr += f",{name}:{gain / 256:g}"
        told.append(f"{bbr})")
    return told


def _upper_layer(row: Row) -> str:
    told = []
    if row.get("ulp") is not None:
        told.append(f"tcp-ulp-{text(row, 'ulp')}")
    if row.get("tls_version") is not None:
        version = whole(row, "tls_version")
        told.append(f"version: {_TLS_VERSIONS.get(version, f'unknown({version})')}")
    if row.get("tls_cipher") in _TLS_CIPHERS:
        told.append(f"cipher: {_TLS_CIPHERS[whole(row, 'tls_cipher')]}")
    for name in ("rxconf", "txconf"):
        if row.get(f"tls_{name}") is not None:
            conf = whole(row, f"tls_{name}")
            told.append(f"{name}: {_TLS_CONF.get(conf, f'unknown({conf})')}")
    if row.get("tls_zc_ro_tx"):
        told.append("zc_ro_tx")
    return "".join(f" {word}" for word in told + _subflow(row))


def _subflow(row: Row) -> list[str]:
    told = []
    if flags := whole(row, "mptcp_flags"):
        letters = (letter for bit, letter in enumerate(_SUBFLOW_FLAGS) if flags >> bit & 1)
        told.append(f"flags:{''.join(letters)}")
    sides = ("token_rem", "id_rem", "token_loc", "id_loc")
    if all(row.get(f"mptcp_{name}") is not None for name in sides):
        remote, local = (
            f"{whole(row, f'mptcp_token_{side}'):04x}(id:{whole(row, f'mptcp_id_{side}')})"
            for side in ("rem", "loc")
        )
        told.append(f"token:{remote}/{local}")
    for column, word in (
        ("mptcp_map_seq", "seq"),
        ("mptcp_map_sfseq", "sfseq"),
        ("mptcp_ssn_offset", "ssnoff"),
        ("mptcp_map_datalen", "maplen"),
    ):
        if row.get(column) is not None:
            told.append(f"{word}:{_unsigned(row, column):x}")
    return told


def _thousandth(row: Row, column: str) -> str:
    return f"{whole(row, column) / 1000:g}"


def _unsigned(row: Row, column: str) -> int:
    """Return a number of 64 bits, which a recording keeps signed."""
    return whole(row, column) % 2**64
