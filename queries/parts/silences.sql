-- title = "Connections whose peer may be gone"
-- description = """
-- One row per open connection that a process holds, with no data and no acknowledgement of the peer for
-- ten seconds in a sample and nothing on its way, so that nothing would tell that the peer is gone; or
-- with keepalive probes that were not answered. Whose other end is open on this host is only idle, and
-- left out; where that end was recorded and is closed, the peer is known to be gone.
-- """
-- uses = ["is_certain", "is_loopback", "last_reads", "opposite", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- quiet_us = "Longest time without a sign of the peer in a sample, by the kernel's clocks."
-- probes = "Most keepalive probes that were not answered."
-- heard_us = "When a sign of the peer came last, by the kernel's clocks."
-- is_gone = "Whether the other end, on this host too, is closed."
-- is_watched = "Whether the kernel probes it (SO_KEEPALIVE), or it has a timer of another kind."
-- at_first = "Whether it was so when the scope began."
-- at_last = "Whether it is so in the last sample that read TCP whole, or was when its process ended."
WITH bounds AS (
  SELECT ns, min(sample) AS first_sample, max(sample) AS last_sample
  FROM tcp_reads
  GROUP BY ns
),
quiet AS (
  SELECT
    s.ns, s.cookie, max_by(s.pid, s.sample) AS pid, max_by(s.start_us, s.sample) AS start_us, max_by(s.comm, s.sample) AS comm,
    any_value(s.local_addr) AS local_addr, any_value(s.local_port) AS local_port, any_value(s.local) AS local,
    any_value(s.peer_addr) AS peer_addr, any_value(s.peer_port) AS peer_port, any_value(s.peer) AS peer,
    1000 * max(least(s.last_data_recv_ms, s.last_ack_recv_ms)) AS quiet_us,
    max(s.t_us - 1000 * least(s.last_data_recv_ms, s.last_ack_recv_ms)) AS heard_us,
    max(CASE WHEN s.timer = 'keepalive' THEN s.retrans ELSE 0 END) AS probes, bool_or(s.timer IS NOT NULL AND s.timer <> 'off') AS is_watched,
    min(s.sample_time) AS since, max(s.sample_time) AS until, min(s.sample) <= b.first_sample AS at_first,
    max(s.sample) AS last_sample, b.last_sample AS ns_last_sample, max(s.t_us) AS until_us
  FROM sockets AS s JOIN bounds AS b USING (ns)
  WHERE s.netid = 'tcp'
    AND s.state = 'ESTAB'
    AND s.inode > 0
    AND s.send_q = 0
    AND s.last_data_recv_ms >= 10000
    AND (s.last_ack_recv_ms >= 10000 OR (s.timer = 'keepalive' AND s.retrans > 0))
    AND NOT is_loopback(s.peer_addr)
  GROUP BY s.ns, s.cookie, b.first_sample, b.last_sample
),
ends AS (
  SELECT ns, sample, t_us, state = 'ESTAB' AS is_open, local_addr, local_port, peer_addr, peer_port
  FROM sockets SEMI JOIN (SELECT DISTINCT last_sample AS sample FROM quiet) AS looked USING (sample)
  WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'SYN-SENT', 'SYN-RECV', 'TIME-WAIT')
  UNION ALL
  SELECT ns, NULL, t_us, false, local_addr, local_port, peer_addr, peer_port
  FROM closes
  WHERE netid = 'tcp' AND connection AND peer_port > 0
),
others AS (
  SELECT q.ns, q.cookie, coalesce(bool_or(e.is_open) FILTER (WHERE e.ns = q.ns), bool_or(e.is_open)) AS is_open
  FROM quiet AS q
  JOIN ends AS e
    ON opposite(
      e.ns, e.local_addr, e.local_port, e.peer_addr, e.peer_port, q.ns, q.local_addr, q.local_port, q.peer_addr, q.peer_port
    )
    -- A port may be used again: what closed before it was heard last is another connection.
    AND CASE WHEN e.sample IS NULL THEN e.t_us BETWEEN q.heard_us - 1000000 AND q.until_us ELSE e.sample = q.last_sample END
  GROUP BY q.ns, q.cookie
  HAVING is_certain(q.ns, e.ns)
)
SELECT q.*, q.last_sample >= coalesce(l.sample, q.ns_last_sample) AS at_last, o.cookie IS NOT NULL AS is_gone
FROM quiet AS q
LEFT JOIN others AS o USING (ns, cookie)
LEFT JOIN last_reads AS l ON l.ns = q.ns AND l.pid = q.pid AND l.start_us = q.start_us
WHERE NOT coalesce(o.is_open, false)
