-- title = "What changed from sample to sample"
-- description = """
-- One row per socket and sample but the first that showed it: by how much each of its counters grew
-- since the sample before, and rates. With --from the last sample before that time counts as the one
-- before. A counter that fell, as a kernel's does that cleared it, has no change. Over everything
-- this takes seconds: ask it WHERE cookie = …, or of few sockets.
-- """
-- inline = true
-- uses = ["grown", "history"]
--
-- [columns]
-- host = "Host that was recorded."
-- boot = "Boot of that host."
-- ns = "Network namespace of one boot of one host, the key together with cookie."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- t_us = "The same in microseconds UTC."
-- dt_us = "Time since the sample before that showed the socket."
-- netid = "Kind of socket."
-- state = "State."
-- local_addr = "Local address."
-- local_port = "Local port."
-- peer_addr = "Peer address."
-- peer_port = "Peer port."
-- pid = "Process that holds it."
-- start_us = "Start of that process after boot."
-- comm = "Name of that process."
-- local = "Local address and port; of a unix socket its name."
-- peer = "Peer address and port."
-- who = "Name and number of the process."
-- recv_q = "Recv-Q."
-- send_q = "Send-Q."
-- d_recv_q = "Change of Recv-Q."
-- d_send_q = "Change of Send-Q."
-- d_bytes_sent = "Growth of bytes_sent."
-- d_bytes_received = "Growth of bytes_received."
-- d_bytes_acked = "Growth of bytes_acked."
-- d_bytes_retrans = "Growth of bytes_retrans."
-- d_segs_out = "Growth of segs_out."
-- d_segs_in = "Growth of segs_in."
-- d_data_segs_out = "Growth of data_segs_out."
-- d_data_segs_in = "Growth of data_segs_in."
-- d_total_retrans = "Growth of total_retrans."
-- d_delivered = "Growth of delivered."
-- d_delivered_ce = "Growth of delivered_ce."
-- d_dsack_dups = "Growth of dsack_dups."
-- d_reord_seen = "Growth of reord_seen."
-- d_rcv_ooopack = "Growth of rcv_ooopack."
-- d_busy_time_us = "Growth of busy_time_us."
-- d_rwnd_limited_us = "Growth of rwnd_limited_us."
-- d_sndbuf_limited_us = "Growth of sndbuf_limited_us."
-- d_total_rto = "Growth of total_rto."
-- d_total_rto_time_ms = "Growth of total_rto_time_ms."
-- d_total_rto_recoveries = "Growth of total_rto_recoveries."
-- d_rehash = "Growth of rehash."
-- d_drops = "Growth of drops."
-- sent_bytes_per_s = "Bytes sent a second."
-- received_bytes_per_s = "Bytes received a second."
-- acked_bytes_per_s = "Bytes acknowledged a second."
WITH grown_by AS (
  SELECT
    host, boot, ns, netns, cookie, sample, sample_time, t_us, t_us - lag(t_us) OVER socket_life AS dt_us,
    netid, state, local_addr, local_port, peer_addr, peer_port, pid, start_us, comm, local, peer, who, recv_q, send_q,
    recv_q - lag(recv_q) OVER socket_life AS d_recv_q,
    send_q - lag(send_q) OVER socket_life AS d_send_q,
    grown(bytes_sent, lag(bytes_sent) OVER socket_life) AS d_bytes_sent,
    grown(bytes_received, lag(bytes_received) OVER socket_life) AS d_bytes_received,
    grown(bytes_acked, lag(bytes_acked) OVER socket_life) AS d_bytes_acked,
    grown(bytes_retrans, lag(bytes_retrans) OVER socket_life) AS d_bytes_retrans,
    grown(segs_out, lag(segs_out) OVER socket_life) AS d_segs_out,
    grown(segs_in, lag(segs_in) OVER socket_life) AS d_segs_in,
    grown(data_segs_out, lag(data_segs_out) OVER socket_life) AS d_data_segs_out,
    grown(data_segs_in, lag(data_segs_in) OVER socket_life) AS d_data_segs_in,
    grown(total_retrans, lag(total_retrans) OVER socket_life) AS d_total_retrans,
    grown(delivered, lag(delivered) OVER socket_life) AS d_delivered,
    grown(delivered_ce, lag(delivered_ce) OVER socket_life) AS d_delivered_ce,
    grown(dsack_dups, lag(dsack_dups) OVER socket_life) AS d_dsack_dups,
    grown(reord_seen, lag(reord_seen) OVER socket_life) AS d_reord_seen,
    grown(rcv_ooopack, lag(rcv_ooopack) OVER socket_life) AS d_rcv_ooopack,
    grown(busy_time_us, lag(busy_time_us) OVER socket_life) AS d_busy_time_us,
    grown(rwnd_limited_us, lag(rwnd_limited_us) OVER socket_life) AS d_rwnd_limited_us,
    grown(sndbuf_limited_us, lag(sndbuf_limited_us) OVER socket_life) AS d_sndbuf_limited_us,
    grown(total_rto, lag(total_rto) OVER socket_life) AS d_total_rto,
    grown(total_rto_time_ms, lag(total_rto_time_ms) OVER socket_life) AS d_total_rto_time_ms,
    grown(total_rto_recoveries, lag(total_rto_recoveries) OVER socket_life) AS d_total_rto_recoveries,
    grown(rehash, lag(rehash) OVER socket_life) AS d_rehash,
    grown(drops, lag(drops) OVER socket_life) AS d_drops
  FROM history
  WHERE state <> 'LISTEN'
  WINDOW socket_life AS (PARTITION BY ns, cookie ORDER BY sample)
  QUALIFY wanted AND lag(t_us) OVER socket_life IS NOT NULL
)
SELECT
  *,
  1000000.0 * d_bytes_sent / nullif(dt_us, 0) AS sent_bytes_per_s,
  1000000.0 * d_bytes_received / nullif(dt_us, 0) AS received_bytes_per_s,
  1000000.0 * d_bytes_acked / nullif(dt_us, 0) AS acked_bytes_per_s
FROM grown_by
