-- title = "What each TCP connection sent, and had to send again"
-- description = """
-- One row per connection: within the scope, from the last sample before it, else from the first one
-- that shows the connection, if that was open then. What reset itself has lost its totals.
-- """
-- uses = ["endpoint", "history", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- retransmitted = "Segments sent again, SYNs included."
-- syn_repeats = "Times that a SYN, or the answer to one, was repeated."
-- lost = "Segments sent again that the peer does not report to have had already (D-SACK)."
-- bytes_lost = "Bytes sent again, in proportion."
-- reord_seen = "Times that packets were seen to have overtaken each other."
WITH counted AS (
  SELECT
    ns, cookie, sample, local_addr, local_port, peer_addr, peer_port, pid, start_us, comm, bytes_retrans, bytes_sent, dsack_dups,
    reord_seen, total_rto, total_rto_time_ms,
    -- A request socket has no tcp_info; that of the connection it becomes starts with its repeats.
    CASE WHEN state = 'SYN-RECV' THEN retrans ELSE total_retrans END AS retransmitted,
    CASE WHEN state IN ('SYN-SENT', 'SYN-RECV') THEN retrans END AS syn_repeats
  FROM history
  WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'TIME-WAIT', 'UNCONN')
),
sampled AS (
  -- Counters only grow: their least value is the first one.
  SELECT
    ns, cookie,
    any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    min(retransmitted) AS first_retransmitted, max(retransmitted) AS retransmitted,
    min(bytes_retrans) AS first_bytes_retrans, max(bytes_retrans) AS bytes_retrans,
    min(bytes_sent) AS first_bytes_sent, max(bytes_sent) AS bytes_sent,
    min(dsack_dups) AS first_dsack_dups, max(dsack_dups) AS dsack_dups,
    min(reord_seen) AS first_reord_seen, max(reord_seen) AS reord_seen,
    min(total_rto) AS first_total_rto, max(total_rto) AS total_rto,
    min(total_rto_time_ms) AS first_total_rto_time_ms, max(total_rto_time_ms) AS total_rto_time_ms,
    max(syn_repeats) AS syn_repeats, min(sample) AS first_sample
  FROM counted
  GROUP BY ns, cookie
),
lives AS (
  SELECT
    s.*,
    -- One that came after the first whole sample began at 0; of others that is older than the scope.
    coalesce(s.first_sample > b.sample, false) AS is_new
  FROM sampled AS s
  LEFT JOIN (SELECT ns, min(sample) AS sample FROM tcp_reads GROUP BY ns) AS b USING (ns)
),
told AS (
  SELECT
    coalesce(s.ns, e.ns) AS ns, coalesce(s.cookie, e.cookie) AS cookie,
    coalesce(s.local_addr, e.local_addr) AS local_addr,
    endpoint(coalesce(s.local_addr, e.local_addr), coalesce(s.local_port, e.local_port)) AS local,
    coalesce(s.peer_addr, e.peer_addr) AS peer_addr, coalesce(s.peer_port, e.peer_port) AS peer_port,
    CASE WHEN s.pid IS NOT NULL THEN s.pid ELSE e.pid END AS pid,
    CASE WHEN s.pid IS NOT NULL THEN s.start_us ELSE e.start_us END AS start_us,
    CASE WHEN s.pid IS NOT NULL THEN s.comm ELSE e.comm END AS comm,
    coalesce(e.total_retrans, s.retransmitted) - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_retransmitted, 0) END AS retransmitted,
    coalesce(e.bytes_retrans, s.bytes_retrans) - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_bytes_retrans, 0) END AS bytes_retrans,
    coalesce(e.bytes_sent, s.bytes_sent) - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_bytes_sent, 0) END AS bytes_sent,
    coalesce(e.dsack_dups, s.dsack_dups) - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_dsack_dups, 0) END AS dsack_dups,
    coalesce(e.reord_seen, s.reord_seen) - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_reord_seen, 0) END AS reord_seen,
    coalesce(e.total_rto, s.total_rto) - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_total_rto, 0) END AS total_rto,
    coalesce(e.total_rto_time_ms, s.total_rto_time_ms)
      - CASE WHEN s.is_new THEN 0 ELSE coalesce(s.first_total_rto_time_ms, 0) END AS total_rto_time_ms,
    s.syn_repeats
  FROM lives AS s
  FULL JOIN (SELECT * FROM closes WHERE netid = 'tcp' AND connection AND peer_port <> 0) AS e
    ON e.ns = s.ns AND e.cookie = s.cookie
  -- Of one that only samples before the scope showed it is not known what it had then.
  WHERE s.cookie IS NOT NULL OR NOT coalesce(e.sampled, false)
)
SELECT
  *, greatest(retransmitted - coalesce(dsack_dups, 0), 0) AS lost,
  bytes_retrans * lost / nullif(retransmitted, 0) AS bytes_lost
FROM told
