-- title = "Open connections, and which of them were not used again"
-- description = """
-- One row per process and the place that it connects to (client), or per address that connects to a
-- listening port here (server); clients on this host are told as such. A connection that came while
-- it was recorded is unused if nothing was sent or received since five seconds after it came, for ten
-- seconds at least, by the kernel's clocks, and no answer is waited for.
-- """
-- uses = ["doors", "is_loopback", "last_reads", "tcp_reads", "the_only", "unmapped"]
-- [columns]
-- ns = "Network namespace."
-- role = "client or server: of this end."
-- addr = "Address of the other end, IPv4 as such."
-- port = "Port that is connected to."
-- pid = "Process at this end, if it is one."
-- connections = "Open in the last sample that read TCP whole, or when their process ended."
-- at_first = "Of these, open in the first one."
-- came = "Of these, those that came later."
-- came_late = "Of these, in the second half of the time."
-- unused = "Of those that came: not used again."
-- reused = "Of those that came and are ten seconds old: used again."
-- given_back = "Connections ten seconds old that are not open any more."
-- idle_us = "Longest that one of the unused has not been used."
WITH bounds AS (
  SELECT ns, min(sample) AS first_sample, max(sample) AS last_sample, (min(t_us) + max(t_us)) // 2 AS half_us
  FROM tcp_reads
  GROUP BY ns
),
lives AS (
  SELECT
    ns, cookie, any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    min(sample) AS first_sample, max(sample) AS last_sample, min(t_us) AS first_us, max(t_us) AS last_us,
    max_by(1000 * least(last_data_sent_ms, last_data_recv_ms), sample) AS idle_us,
    max_by(last_data_recv_ms <= last_data_sent_ms, sample) AS is_answered
  FROM sockets
  WHERE netid = 'tcp' AND state = 'ESTAB' AND inode > 0 AND NOT coalesce(subflow, false)
  GROUP BY ns, cookie
),
held AS (
  SELECT
    s.ns, s.pid, s.start_us, s.comm, CASE WHEN d.ns IS NULL THEN 'client' ELSE 'server' END AS role, unmapped(s.peer_addr) AS addr,
    CASE WHEN d.ns IS NULL THEN s.peer_port ELSE s.local_port END AS port,
    s.first_sample > b.first_sample AS came, s.last_sample, b.last_sample AS ns_last_sample, s.first_us >= b.half_us AS is_late,
    s.last_us - s.first_us >= 10000000 AS is_old, s.idle_us,
    s.last_us - s.first_us - 5000000 <= s.idle_us AND s.idle_us >= 10000000 AND (d.ns IS NOT NULL OR s.is_answered) AS is_unused,
    make_timestamp(s.first_us) AS since, make_timestamp(s.last_us) AS until
  FROM lives AS s
  JOIN bounds AS b USING (ns)
  LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
  -- The other end of what is within this namespace has a row as a client.
  WHERE d.ns IS NULL OR NOT (is_loopback(s.peer_addr) OR s.peer_addr = s.local_addr)
),
kept AS (
  SELECT h.*, h.last_sample >= coalesce(l.sample, h.ns_last_sample) AS is_open
  FROM held AS h LEFT JOIN last_reads AS l ON l.ns = h.ns AND l.pid = h.pid AND l.start_us = h.start_us
)
SELECT
  ns, role, addr, port, the_only(pid) AS pid, the_only(start_us) AS start_us, the_only(comm) AS comm, count(*) FILTER (WHERE is_open) AS connections,
  count(*) FILTER (WHERE is_open AND NOT came) AS at_first, count(*) FILTER (WHERE is_open AND came) AS came,
  count(*) FILTER (WHERE is_open AND came AND is_late) AS came_late, count(*) FILTER (WHERE is_open AND came AND is_unused) AS unused,
  count(*) FILTER (WHERE is_open AND came AND is_old AND NOT is_unused) AS reused,
  count(*) FILTER (WHERE NOT is_open AND is_old) AS given_back,
  max(idle_us) FILTER (WHERE is_open AND came AND is_unused) AS idle_us,
  min(since) FILTER (WHERE is_open AND came) AS since, max(until) AS until
FROM kept
GROUP BY ns, role, addr, port, CASE WHEN role = 'client' THEN pid END, CASE WHEN role = 'client' THEN start_us END
