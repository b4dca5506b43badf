-- title = "What changed from sample to sample"
-- description = """
-- One row per socket and sample but the first that showed it: by how much each of its counters grew
-- since the sample before, and rates. With --from the last sample before that time counts as the one
-- before. A counter that fell, as a kernel's does that cleared it, has no change. Over everything
-- this takes seconds: ask it WHERE cookie = …, or of few sockets.
-- """
--
-- [columns]
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
WITH rows_of_sockets AS (
  SELECT 1 AS wanted, s.* FROM sockets AS s WHERE s.state <> 'LISTEN'
  UNION ALL
  SELECT 0 AS wanted, b.* FROM baseline AS b WHERE b.state <> 'LISTEN'
),
changes AS (
  SELECT
    wanted,
    netns,
    cookie,
    sample,
    sample_time,
    t_us,
    netid,
    state,
    local_addr,
    local_port,
    peer_addr,
    peer_port,
    pid,
    start_us,
    comm,
    recv_q,
    send_q,
    lag(t_us) OVER socket_life AS former_us,
    lag(recv_q) OVER socket_life AS former_recv_q,
    lag(send_q) OVER socket_life AS former_send_q,
    bytes_sent,
    lag(bytes_sent) OVER socket_life AS former_bytes_sent,
    bytes_received,
    lag(bytes_received) OVER socket_life AS former_bytes_received,
    bytes_acked,
    lag(bytes_acked) OVER socket_life AS former_bytes_acked,
    bytes_retrans,
    lag(bytes_retrans) OVER socket_life AS former_bytes_retrans,
    segs_out,
    lag(segs_out) OVER socket_life AS former_segs_out,
    segs_in,
    lag(segs_in) OVER socket_life AS former_segs_in,
    data_segs_out,
    lag(data_segs_out) OVER socket_life AS former_data_segs_out,
    data_segs_in,
    lag(data_segs_in) OVER socket_life AS former_data_segs_in,
    total_retrans,
    lag(total_retrans) OVER socket_life AS former_total_retrans,
    delivered,
    lag(delivered) OVER socket_life AS former_delivered,
    delivered_ce,
    lag(delivered_ce) OVER socket_life AS former_delivered_ce,
    dsack_dups,
    lag(dsack_dups) OVER socket_life AS former_dsack_dups,
    reord_seen,
    lag(reord_seen) OVER socket_life AS former_reord_seen,
    rcv_ooopack,
    lag(rcv_ooopack) OVER socket_life AS former_rcv_ooopack,
    busy_time_us,
    lag(busy_time_us) OVER socket_life AS former_busy_time_us,
    rwnd_limited_us,
    lag(rwnd_limited_us) OVER socket_life AS former_rwnd_limited_us,
    sndbuf_limited_us,
    lag(sndbuf_limited_us) OVER socket_life AS former_sndbuf_limited_us,
    total_rto,
    lag(total_rto) OVER socket_life AS former_total_rto,
    total_rto_time_ms,
    lag(total_rto_time_ms) OVER socket_life AS former_total_rto_time_ms,
    total_rto_recoveries,
    lag(total_rto_recoveries) OVER socket_life AS former_total_rto_recoveries,
    rehash,
    lag(rehash) OVER socket_life AS former_rehash,
    drops,
    lag(drops) OVER socket_life AS former_drops
  FROM rows_of_sockets
  WINDOW socket_life AS (PARTITION BY netns, cookie ORDER BY sample)
),
grown AS (
  SELECT
    changes.*,
    t_us - former_us AS dt_us,
    CASE WHEN bytes_sent >= former_bytes_sent THEN bytes_sent - former_bytes_sent END AS d_bytes_sent,
    CASE WHEN bytes_received >= former_bytes_received THEN bytes_received - former_bytes_received END AS d_bytes_received,
    CASE WHEN bytes_acked >= former_bytes_acked THEN bytes_acked - former_bytes_acked END AS d_bytes_acked,
    CASE WHEN bytes_retrans >= former_bytes_retrans THEN bytes_retrans - former_bytes_retrans END AS d_bytes_retrans,
    CASE WHEN segs_out >= former_segs_out THEN segs_out - former_segs_out END AS d_segs_out,
    CASE WHEN segs_in >= former_segs_in THEN segs_in - former_segs_in END AS d_segs_in,
    CASE WHEN data_segs_out >= former_data_segs_out THEN data_segs_out - former_data_segs_out END AS d_data_segs_out,
    CASE WHEN data_segs_in >= former_data_segs_in THEN data_segs_in - former_data_segs_in END AS d_data_segs_in,
    CASE WHEN total_retrans >= former_total_retrans THEN total_retrans - former_total_retrans END AS d_total_retrans,
    CASE WHEN delivered >= former_delivered THEN delivered - former_delivered END AS d_delivered,
    CASE WHEN delivered_ce >= former_delivered_ce THEN delivered_ce - former_delivered_ce END AS d_delivered_ce,
    CASE WHEN dsack_dups >= former_dsack_dups THEN dsack_dups - former_dsack_dups END AS d_dsack_dups,
    CASE WHEN reord_seen >= former_reord_seen THEN reord_seen - former_reord_seen END AS d_reord_seen,
    CASE WHEN rcv_ooopack >= former_rcv_ooopack THEN rcv_ooopack - former_rcv_ooopack END AS d_rcv_ooopack,
    CASE WHEN busy_time_us >= former_busy_time_us THEN busy_time_us - former_busy_time_us END AS d_busy_time_us,
    CASE WHEN rwnd_limited_us >= former_rwnd_limited_us THEN rwnd_limited_us - former_rwnd_limited_us END AS d_rwnd_limited_us,
    CASE WHEN sndbuf_limited_us >= former_sndbuf_limited_us THEN sndbuf_limited_us - former_sndbuf_limited_us END AS d_sndbuf_limited_us,
    CASE WHEN total_rto >= former_total_rto THEN total_rto - former_total_rto END AS d_total_rto,
    CASE WHEN total_rto_time_ms >= former_total_rto_time_ms THEN total_rto_time_ms - former_total_rto_time_ms END AS d_total_rto_time_ms,
    CASE WHEN total_rto_recoveries >= former_total_rto_recoveries THEN total_rto_recoveries - former_total_rto_recoveries END AS d_total_rto_recoveries,
    CASE WHEN rehash >= former_rehash THEN rehash - former_rehash END AS d_rehash,
    CASE WHEN drops >= former_drops THEN drops - former_drops END AS d_drops
  FROM changes
  WHERE wanted = 1 AND former_us IS NOT NULL
)
SELECT
  netns,
  cookie,
  sample,
  sample_time,
  t_us,
  dt_us,
  netid,
  state,
  local_addr,
  local_port,
  peer_addr,
  peer_port,
  pid,
  start_us,
  comm,
  recv_q,
  send_q,
  recv_q - former_recv_q AS d_recv_q,
  send_q - former_send_q AS d_send_q,
  d_bytes_sent,
  d_bytes_received,
  d_bytes_acked,
  d_bytes_retrans,
  d_segs_out,
  d_segs_in,
  d_data_segs_out,
  d_data_segs_in,
  d_total_retrans,
  d_delivered,
  d_delivered_ce,
  d_dsack_dups,
  d_reord_seen,
  d_rcv_ooopack,
  d_busy_time_us,
  d_rwnd_limited_us,
  d_sndbuf_limited_us,
  d_total_rto,
  d_total_rto_time_ms,
  d_total_rto_recoveries,
  d_rehash,
  d_drops,
  1000000.0 * d_bytes_sent / nullif(dt_us, 0) AS sent_bytes_per_s,
  1000000.0 * d_bytes_received / nullif(dt_us, 0) AS received_bytes_per_s,
  1000000.0 * d_bytes_acked / nullif(dt_us, 0) AS acked_bytes_per_s
FROM grown
