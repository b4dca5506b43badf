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
held AS (
  SELECT
    s.ns, s.cookie, CASE WHEN d.ns IS NULL THEN 'client' ELSE 'server' END AS role, unmapped(any_value(s.peer_addr)) AS addr,
    CASE WHEN d.ns IS NULL THEN any_value(s.peer_port) ELSE any_value(s.local_port) END AS port,
    max_by(s.pid, s.sample) AS pid, max_by(s.start_us, s.sample) AS start_us, max_by(s.comm, s.sample) AS comm,
    min(s.sample) > b.first_sample AS came, max(s.sample) AS last_sample, b.last_sample AS ns_last_sample, min(s.t_us) >= b.half_us AS is_late,
    max(s.t_us) - min(s.t_us) >= 10000000 AS is_old, max_by(1000 * least(s.last_data_sent_ms, s.last_data_recv_ms), s.sample) AS idle_us,
    max(s.t_us) - min(s.t_us) - 5000000 <= idle_us AND idle_us >= 10000000
    AND (role = 'server' OR max_by(s.last_data_recv_ms <= s.last_data_sent_ms, s.sample)) AS is_unused,
    min(s.sample_time) AS since, max(s.sample_time) AS until
  FROM sockets AS s
  JOIN bounds AS b USING (ns)
  LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
  WHERE s.netid = 'tcp'
    AND s.state = 'ESTAB'
    AND s.inode > 0
    AND NOT coalesce(s.subflow, false)
    -- The other end of what is within this namespace has a row as a client.
    AND (d.ns IS NULL OR NOT (is_loopback(s.peer_addr) OR s.peer_addr = s.local_addr))
  GROUP BY s.ns, s.cookie, d.ns, b.first_sample, b.last_sample, b.half_us
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
