"""What ss -i prints of TCP: struct tcp_info, congestion control and upper layers."""

from __future__ import annotations

from functools import partial

from analyzer.ss.words import Row, Word, signed, text, whole

_OPTIONS = ((1, "ts"), (2, "sack"), (8, "ecn"), (16, "ecnseen"), (32, "fastopen"))
_NO_RTO, _NO_SSTHRESH, _NO_RTT = 3_000_000, 0xFFFF, 0x7FFFFFFF
_TLS_VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}
_TLS_CIPHERS = {51: "aes-gcm-128", 52: "aes-gcm-256"}
_TLS_CONF = {1: "none", 2: "sw", 3: "hw", 4: "hw-record"}
_UPPER = ("ulp", "tls_version", "tls_cipher", "tls_rxconf", "tls_txconf", "tls_zc_ro_tx")
_SUBFLOW_FLAGS = "MmJjBbecv"
_SIDES = ("mptcp_token_rem", "mptcp_id_rem", "mptcp_token_loc", "mptcp_id_loc")
_MAPPING = (
    *(("mptcp_map_seq", "seq"), ("mptcp_map_sfseq", "sfseq")),
    *(("mptcp_ssn_offset", "ssnoff"), ("mptcp_map_datalen", "maplen")),
)
_SUBFLOW = ("mptcp_flags", *_SIDES, *(column for column, _ in _MAPPING))
_CONGESTION = (
    *("dctcp_enabled", "dctcp_ce_state", "dctcp_alpha", "dctcp_ab_ecn", "dctcp_ab_tot"),
    *("bbr_bw", "bbr_min_rtt_us", "bbr_pacing_gain", "bbr_cwnd_gain"),
)
_SPEED = ("rtt_us", "snd_mss", "snd_cwnd", "vegas_enabled", "vegas_rtt_us")

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


def internals(*, options: bool, numeric: bool) -> list[Word]:
    """Return all words that -i adds to the line of a socket; ``options`` are those of -o.

    So that each is made of few columns, and those that have another value in every row stand alone:
    of many sockets most words are the same.
    """
    return [
        (partial(_begin, options), ("rto_us", "options", "cong", "snd_wscale", "rcv_wscale")),
        (_backoff, ("backoff",)),
        (_rtt, ("rtt_us", "rttvar_us")),
        (_ato, ("ato_us",)),
        *((partial(_size, *one), (one[0],)) for one in _SIZES),
        (_ssthresh, ("snd_ssthresh",)),
        *((partial(_total, name, name), (name,)) for name in _TOTALS),
        (partial(_congestion, numeric), ("rto_us", *_CONGESTION)),
        (partial(_send, numeric), _SPEED),
        *((partial(_total, column, word), (column,)) for column, word in _CLOCKS),
        (partial(_pacing, numeric), ("pacing_rate", "max_pacing_rate")),
        (partial(_delivery, numeric), ("delivery_rate",)),
        *((partial(_total, name, name), (name,)) for name in ("delivered", "delivered_ce")),
        (_app_limited, ("delivery_rate_app_limited",)),
        (_busy, ("busy_time_us", "rwnd_limited_us", "sndbuf_limited_us")),
        *_LOSSES,
        (_md5_keys, ("md5_keys",)),
        (_upper_layer, _UPPER),
        (_subflow, _SUBFLOW),
    ]


def _begin(options: bool, row: Row) -> str:
    if row.get("rto_us") is None:  # there is no struct tcp_info
        return ""
    told = []
    bits = whole(row, "options")
    if options:
        told += [word for bit, word in _OPTIONS if bits & bit]
    if row.get("cong"):
        told.append(text(row, "cong")[:15])
    if bits & 4:
        told.append(f"wscale:{whole(row, 'snd_wscale')},{whole(row, 'rcv_wscale')}")
    if row["rto_us"] and row["rto_us"] != _NO_RTO:
        told.append(f"rto:{_thousandth(row, 'rto_us')}")
    return "".join(f" {word}" for word in told)


def _backoff(row: Row) -> str:
    return f" backoff:{row['backoff']}" if row.get("backoff") else ""


def _rtt(row: Row) -> str:
    if not row.get("rtt_us"):
        return ""
    return f" rtt:{_thousandth(row, 'rtt_us')}/{_thousandth(row, 'rttvar_us')}"


def _ato(row: Row) -> str:
    return f" ato:{_thousandth(row, 'ato_us')}" if row.get("ato_us") else ""


def _size(column: str, word: str, sign: bool, row: Row) -> str:
    value = whole(row, column)
    return f" {word}:{signed(value) if sign else value}" if value else ""


def _ssthresh(row: Row) -> str:
    known = 0 < whole(row, "snd_ssthresh") < _NO_SSTHRESH
    return f" ssthresh:{row['snd_ssthresh']}" if known else ""


def _total(column: str, word: str, row: Row) -> str:
    return f" {word}:{_unsigned(row, column)}" if row.get(column) else ""


def _send(numeric: bool, row: Row) -> str:
    rtt = float(whole(row, "rtt_us"))
    if row.get("vegas_enabled") and whole(row, "vegas_rtt_us") not in (0, _NO_RTT):
        rtt = float(whole(row, "vegas_rtt_us"))
    if rtt <= 0 or not row.get("snd_mss") or not row.get("snd_cwnd"):
        return ""
    speed = float(whole(row, "snd_cwnd")) * float(whole(row, "snd_mss")) * 8000000.0 / rtt
    return f" send {bandwidth(speed, numeric=numeric)}bps"


def _pacing(numeric: bool, row: Row) -> str:
    if not row.get("pacing_rate"):
        return ""
    told = f" pacing_rate {_bits(row, 'pacing_rate', numeric)}"
    if row.get("max_pacing_rate"):
        told += f"/{_bits(row, 'max_pacing_rate', numeric)}"
    return told


def _delivery(numeric: bool, row: Row) -> str:
    if not row.get("delivery_rate"):
        return ""
    return f" delivery_rate {_bits(row, 'delivery_rate', numeric)}"


def _bits(row: Row, column: str, numeric: bool) -> str:
    return f"{bandwidth(_unsigned(row, column) * 8.0, numeric=numeric)}bps"


def _app_limited(row: Row) -> str:
    return " app_limited" if row.get("delivery_rate_app_limited") else ""


def _busy(row: Row) -> str:
    busy = _unsigned(row, "busy_time_us")
    if not busy:
        return ""
    told = f" busy:{busy // 1000}ms"
    for name in ("rwnd_limited", "sndbuf_limited"):
        if limited := _unsigned(row, f"{name}_us"):
            told += f" {name}:{limited // 1000}ms({100.0 * limited / busy:.1f}%)"
    return told


def _retrans(row: Row) -> str:
    if not row.get("tcpi_retrans") and not row.get("total_retrans"):
        return ""
    return f" retrans:{whole(row, 'tcpi_retrans')}/{whole(row, 'total_retrans')}"


def _sacked(row: Row) -> str:
    known = row.get("sacked") and row["state"] != "LISTEN"
    return f" sacked:{row['sacked']}" if known else ""


def _reordering(row: Row) -> str:
    value = whole(row, "reordering")
    known = row.get("rto_us") is not None and value != 3
    return f" reordering:{signed(value)}" if known else ""


def _time(column: str, word: str, row: Row) -> str:
    return f" {word}:{_thousandth(row, column)}" if row.get(column) else ""


_LOSSES: tuple[Word, ...] = (
    (partial(_total, "unacked", "unacked"), ("unacked",)),
    (_retrans, ("tcpi_retrans", "total_retrans")),
    (partial(_total, "lost", "lost"), ("lost",)),
    (_sacked, ("sacked", "state")),
    *((partial(_total, name, name), (name,)) for name in ("dsack_dups", "fackets")),
    (_reordering, ("reordering", "rto_us")),
    (partial(_size, "reord_seen", "reord_seen", True), ("reord_seen",)),
    (partial(_time, "rcv_rtt_us", "rcv_rtt"), ("rcv_rtt_us",)),
    (partial(_size, "rcv_space", "rcv_space", True), ("rcv_space",)),
    (partial(_total, "rcv_ssthresh", "rcv_ssthresh"), ("rcv_ssthresh",)),
    (partial(_total, "notsent_bytes", "notsent"), ("notsent_bytes",)),
    (partial(_time, "min_rtt_us", "minrtt"), ("min_rtt_us",)),
    *((partial(_total, name, name), (name,)) for name in ("rcv_ooopack", "snd_wnd")),
)


def _congestion(numeric: bool, row: Row) -> str:
    if row.get("rto_us") is None:
        return ""
    told = ""
    if row.get("dctcp_enabled"):
        told += (
            f" dctcp:(ce_state:{whole(row, 'dctcp_ce_state')},alpha:{whole(row, 'dctcp_alpha')},"
            f"ab_ecn:{whole(row, 'dctcp_ab_ecn')},ab_tot:{whole(row, 'dctcp_ab_tot')})"
        )
    elif row.get("dctcp_enabled") is not None:
        told += " dctcp:fallback_mode"
    if row.get("bbr_bw") is not None:
        told += f" bbr:(bw:{_bits(row, 'bbr_bw', numeric)}"
        told += f",mrtt:{_thousandth(row, 'bbr_min_rtt_us')}"
        for name in ("pacing_gain", "cwnd_gain"):
            if gain := whole(row, f"bbr_{name}"):
                told += f",{name}:{gain / 256:g}"
        told += ")"
    return told


def _md5_keys(row: Row) -> str:
    # the keys themselves are never recorded
    return f" md5keys:{row['md5_keys']}" if row.get("md5_keys") else ""


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
    return "".join(f" {word}" for word in told)


def _subflow(row: Row) -> str:
    told = []
    if flags := whole(row, "mptcp_flags"):
        letters = (letter for bit, letter in enumerate(_SUBFLOW_FLAGS) if flags >> bit & 1)
        told.append(f"flags:{''.join(letters)}")
    if all(row.get(column) is not None for column in _SIDES):
        remote, local = (
            f"{whole(row, f'mptcp_token_{side}'):04x}(id:{whole(row, f'mptcp_id_{side}')})"
            for side in ("rem", "loc")
        )
        told.append(f"token:{remote}/{local}")
    for column, word in _MAPPING:
        if row.get(column) is not None:
            told.append(f"{word}:{_unsigned(row, column):x}")
    return "".join(f" {word}" for word in told)


def _thousandth(row: Row, column: str) -> str:
    return f"{whole(row, column) / 1000:g}"


def _unsigned(row: Row, column: str) -> int:
    """Return a number of 64 bits, which a recording keeps signed."""
    return whole(row, column) % 2**64
