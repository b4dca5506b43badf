"""struct tcp_info (include/uapi/linux/tcp.h) → columns, in every length kernels have sent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recorder.wire.columns import Columns, Values
from recorder.wire.layout import Layout

_U4 = "<u4"
_U8 = "<u8"

LAYOUT = Layout(
    "info",
    (
        ("tcpi_state", 0, "u1"),
        ("ca_state", 1, "u1"),
        ("retransmits", 2, "u1"),
        ("probes", 3, "u1"),
        ("backoff", 4, "u1"),
        ("options", 5, "u1"),
        ("_wscale", 6, "u1"),
        ("_limited", 7, "u1"),
        *(
            (name, 8 + 4 * n, _U4)
            for n, name in enumerate(
                "rto_us ato_us snd_mss rcv_mss unacked sacked lost tcpi_retrans fackets "
                "last_data_sent_ms last_ack_sent_ms last_data_recv_ms last_ack_recv_ms pmtu "
                "rcv_ssthresh rtt_us rttvar_us snd_ssthresh snd_cwnd advmss reordering "
                "rcv_rtt_us rcv_space total_retrans".split()
            )
        ),
        ("pacing_rate", 104, _U8),
        ("max_pacing_rate", 112, _U8),
        ("bytes_acked", 120, _U8),
        ("bytes_received", 128, _U8),
        ("segs_out", 136, _U4),
        ("segs_in", 140, _U4),
        ("notsent_bytes", 144, _U4),
        ("min_rtt_us", 148, _U4),
        ("data_segs_in", 152, _U4),
        ("data_segs_out", 156, _U4),
        ("delivery_rate", 160, _U8),
        ("busy_time_us", 168, _U8),
        ("rwnd_limited_us", 176, _U8),
        ("sndbuf_limited_us", 184, _U8),
        ("delivered", 192, _U4),
        ("delivered_ce", 196, _U4),
        ("bytes_sent", 200, _U8),
        ("bytes_retrans", 208, _U8),
        ("dsack_dups", 216, _U4),
        ("reord_seen", 220, _U4),
        ("rcv_ooopack", 224, _U4),
        ("snd_wnd", 228, _U4),
        ("rcv_wnd", 232, _U4),
        ("rehash", 236, _U4),
        ("total_rto", 240, "<u2"),
        ("total_rto_recoveries", 242, "<u2"),
        ("total_rto_time_ms", 244, _U4),
        ("received_ce", 248, _U4),
        ("delivered_e1_bytes", 252, _U4),
        ("delivered_e0_bytes", 256, _U4),
        ("delivered_ce_bytes", 260, _U4),
        ("received_e1_bytes", 264, _U4),
        ("received_e0_bytes", 268, _U4),
        ("received_ce_bytes", 272, _U4),
        ("_accecn", 276, _U4),
    ),
)


def values(columns: Columns, release: tuple[int, int]) -> dict[str, Values]:
    """Return the columns of tcp_info, bit fields taken apart.

    The kernel's ``release`` decides on bytes 276 to 279, the only ones whose layout changed.
    """
    result = LAYOUT.values(columns)
    if not result:
        return result
    wscale = result.pop("_wscale", None)
    limited = result.pop("_limited", None)
    if wscale is None or limited is None:  # of so short a struct nothing is to be believed
        return {}
    result["snd_wscale"] = Values(wscale.data & 0xF, wscale.valid)
    result["rcv_wscale"] = Values(wscale.data >> 4, wscale.valid)
    # Before the field that came along with them, these bits were padding.
    for name, bits, along_with in (
        ("delivery_rate_app_limited", limited.data & 1, "delivery_rate"),
        ("fastopen_client_fail", limited.data >> 1 & 3, "snd_wnd"),
    ):
        if along_with in result:
            result[name] = Values(bits, result[along_with].valid)
    for name in ("pacing_rate", "max_pacing_rate", "min_rtt_us"):
        if name in result:
            result[name] = _none_is_null(result[name])
    accecn = result.pop("_accecn", None)
    if accecn is not None:
        word, valid = accecn.data, accecn.valid
        if release >= (7, 0):
            result["ecn_mode"] = Values((word & 3).astype(np.uint8), valid)
            result["accecn_opt_seen"] = Values((word >> 2 & 3).astype(np.uint16), valid)
            result["accecn_fail_mode"] = Values((word >> 4 & 15).astype(np.uint16), valid)
            result["options2"] = Values(word >> 8, valid)
        else:
            result["accecn_fail_mode"] = Values(word.astype(np.uint16), valid)
            result["accecn_opt_seen"] = Values((word >> 16).astype(np.uint16), valid)
    return result


def _none_is_null(values: Values) -> Values:
    """Turn the kernel's all-ones, which says "none", into NULL."""
    data: npt.NDArray[np.unsignedinteger] = values.data
    given = data != np.iinfo(data.dtype).max
    if given.all():
        return values
    return Values(data, given if values.valid is None else given & values.valid)
