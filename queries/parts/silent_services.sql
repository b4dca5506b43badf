-- title = "Services with connections whose peer may be gone"
-- description = """
-- One row per process and listening port of which a peer was silent. How long the peers of the service
-- pause, as far as they spoke again, is known too: who is silent for longer is overdue, however short
-- that is.
-- """
-- uses = ["doors", "is_loopback", "last_reads", "opposite", "silences", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- local = "Address and port of the service at which they are, any one of several addresses."
-- silent = "Connections silent for ten seconds or more in the last sample, without keepalive."
-- silent_first = "Those that were so when the scope began."
-- spoke = "Those that were silent, and spoke again or were closed."
-- gone = "Connections silent in the last sample whose other end, on this host too, is closed."
-- unanswered = "Connections of which keepalive probes were not answered."
-- connections = "All connections of the service that the process holds in the last sample."
-- quiet_us = "Longest silence of those in the last sample."
-- waits_us = "Silence of each of them."
-- pause_us = "Longest that a peer of the service paused, at most, before it spoke again; nothing if none did."
-- overdue = "Connections without keepalive that are silent for longer than that in the last sample; nothing if it is not known."
WITH candidates AS MATERIALIZED (
  SELECT
    q.ns, q.pid, q.start_us, coalesce(q.pid, -1) AS holder, coalesce(q.start_us, -1) AS started, max(q.comm) AS comm, q.local_port, min(q.local) AS local,
    count(*) FILTER (WHERE q.at_last AND NOT q.is_watched) AS silent,
    count(*) FILTER (WHERE q.at_first AND NOT q.is_watched) AS silent_first,
    count(*) FILTER (WHERE NOT q.at_last AND NOT q.is_watched) AS spoke,
    count(*) FILTER (WHERE q.at_last AND q.is_gone) AS gone, count(*) FILTER (WHERE q.probes >= 2) AS unanswered, max(q.probes) AS probes,
    max(q.quiet_us) FILTER (WHERE q.at_last OR q.probes >= 2) AS quiet_us,
    list(q.quiet_us) FILTER (WHERE q.at_last AND NOT q.is_watched) AS waits_us,
    min(q.since) AS since, max(q.until) AS until
  FROM silences AS q
  SEMI JOIN doors AS d ON d.ns = q.ns AND d.local_port = q.local_port
  GROUP BY q.ns, q.pid, q.start_us, q.local_port
  -- No host has so many; but the planner may know that they are not as many as sockets.
  ORDER BY silent + gone + unanswered DESC, q.ns, q.local_port, q.pid, q.start_us
  LIMIT 100000
),
lasts AS (
  SELECT v.ns, v.holder, v.started, coalesce(any_value(l.sample), any_value(r.sample)) AS sample
  FROM candidates AS v
  JOIN (SELECT ns, max(sample) AS sample FROM tcp_reads GROUP BY ns) AS r USING (ns)
  LEFT JOIN last_reads AS l ON l.ns = v.ns AND l.pid = v.pid AND l.start_us = v.start_us
  GROUP BY v.ns, v.holder, v.started
),
looks AS MATERIALIZED (
  SELECT
    s.ns, s.cookie, s.sample, v.holder, v.started, s.local_addr, s.local_port, s.peer_addr, s.peer_port,
    1000 * least(s.last_data_recv_ms, s.last_ack_recv_ms) AS quiet_us,
    s.t_us - 1000 * least(s.last_data_recv_ms, s.last_ack_recv_ms) AS heard_us,
    s.send_q = 0 AND coalesce(s.timer, 'off') = 'off' AND NOT is_loopback(s.peer_addr) AS may_be_gone
  FROM sockets AS s
  JOIN candidates AS v
    ON v.ns = s.ns AND v.local_port = s.local_port AND v.holder = coalesce(s.pid, -1) AND v.started = coalesce(s.start_us, -1)
  WHERE s.netid = 'tcp' AND s.state = 'ESTAB' AND s.inode > 0
),
pauses AS (
  SELECT ns, holder, started, local_port, max(paused_us) AS pause_us
  FROM (
    SELECT *, heard_us - lag(heard_us) OVER (PARTITION BY ns, cookie ORDER BY sample) AS paused_us
    FROM looks
  ) AS steps
  -- The clocks are in milliseconds, and read a little after the sample was begun.
  WHERE paused_us > 50000
  GROUP BY ns, holder, started, local_port
),
held AS (
  SELECT s.ns, s.holder, s.started, s.local_port, count(*) AS connections
  FROM looks AS s JOIN lasts AS n USING (ns, holder, started, sample)
  GROUP BY s.ns, s.holder, s.started, s.local_port
),
overdue AS (
  SELECT l.ns, l.holder, l.started, l.local_port, count(*) AS connections
  FROM looks AS l
  JOIN lasts AS n USING (ns, holder, started, sample)
  JOIN pauses AS p USING (ns, holder, started, local_port)
  ANTI JOIN (
    SELECT s.ns, s.sample, s.local_addr, s.local_port, s.peer_addr, s.peer_port
    FROM sockets AS s SEMI JOIN lasts AS n USING (sample)
    WHERE s.netid = 'tcp' AND s.state = 'ESTAB'
  ) AS o
    ON opposite(
      o.ns, o.local_addr, o.local_port, o.peer_addr, o.peer_port, l.ns, l.local_addr, l.local_port, l.peer_addr, l.peer_port
    )
    AND o.sample = l.sample
  WHERE l.may_be_gone AND l.quiet_us > p.pause_us
  GROUP BY l.ns, l.holder, l.started, l.local_port
)
SELECT
  v.* EXCLUDE (holder, started), coalesce(h.connections, 0) AS connections, p.pause_us,
  CASE WHEN p.pause_us IS NOT NULL THEN coalesce(o.connections, 0) END AS overdue
FROM candidates AS v
LEFT JOIN held AS h USING (ns, holder, started, local_port)
LEFT JOIN pauses AS p USING (ns, holder, started, local_port)
LEFT JOIN overdue AS o USING (ns, holder, started, local_port)
