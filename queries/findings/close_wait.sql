-- title = "Connections that a process never closes"
-- description = """
-- The peer has closed, and the process has not: its connections stay in CLOSE-WAIT, each with a
-- descriptor and memory, until it ends. That is always the process's own fault: an error path
-- without close(), or a pool that does not look. Those that only wait to be accepted do not count,
-- nor do a process that closes them in the end, and a number that does not grow.
-- """
-- needs = ["tcp"]
-- uses = ["close_waits", "endpoint", "fd_limits", "netns_of", "tcp_reads", "who"]
--
-- [params.age_s]
-- type = "DOUBLE"
-- default = 60.0
-- doc = "Seconds in CLOSE-WAIT from which it is called forgotten: a process at work closes at once, and a minute outlasts the usual timeouts of requests."
--
-- [params.sockets]
-- type = "BIGINT"
-- default = 2
-- doc = "Forgotten ones that came while it was recorded: one may be a single request that hangs."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the process's descriptor limit in CLOSE-WAIT from which it is critical: accept() and open() fail at the limit."
WITH judged AS (
  SELECT
    w.*, coalesce(w.pid, -1) AS holder, coalesce(w.start_us, -1) AS started,
    w.waited_us >= 1000000.0 * p.age_s AS is_old
  FROM close_waits AS w CROSS JOIN params AS p
  WHERE w.verdict IS DISTINCT FROM 'not accepted'
),
leaking AS (
  SELECT
    ns, holder, started, any_value(pid) AS pid, any_value(start_us) AS start_us, max(comm) AS comm,
    count(*) FILTER (WHERE at_first) AS before,
    count(*) FILTER (WHERE at_last) AS now,
    count(*) FILTER (WHERE at_last AND is_old) AS old,
    count(*) FILTER (WHERE at_last AND is_old AND NOT at_first) AS forgotten,
    count(*) FILTER (WHERE NOT at_last AND is_old) AS closed_late,
    max(waited_us) FILTER (WHERE at_last) AS oldest_us, min(since) FILTER (WHERE at_last) AS since, max(until) AS until
  FROM judged CROSS JOIN params AS p
  GROUP BY ns, holder, started, p.sockets
  HAVING forgotten >= p.sockets AND now > before AND closed_late < forgotten
),
ends AS (
  -- The end that most of them share: the own port of a server, the peer of a client.
  SELECT ns, holder, started, side, local AS place
  FROM (
    SELECT ns, holder, started, 'on' AS side, local_addr AS addr, local_port AS port, local FROM judged WHERE at_last
    UNION ALL
    SELECT ns, holder, started, 'to', peer_addr, peer_port, endpoint(peer_addr, peer_port) FROM judged WHERE at_last
  ) AS both_ends
  GROUP BY ns, holder, started, side, addr, port, local
  QUALIFY row_number() OVER (PARTITION BY ns, holder, started ORDER BY count(*) DESC, side, addr, port) = 1
),
held AS (
  SELECT l.ns, l.holder, l.started, count(*) AS connections
  FROM sockets AS s
  JOIN (SELECT ns, max(sample) AS sample FROM tcp_reads GROUP BY ns) AS n USING (ns, sample)
  JOIN leaking AS l ON l.ns = s.ns AND l.holder = coalesce(s.pid, -1) AND l.started = coalesce(s.start_us, -1)
  WHERE s.netid IN ('tcp', 'mptcp')
    AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT')
    AND coalesce(s.inode, 1) <> 0
    AND (s.subflow IS NULL OR NOT s.subflow)
  GROUP BY l.ns, l.holder, l.started
),
named AS (
  SELECT
    l.*, a.fd_limit, e.side, e.place, 1.0 * l.now / nullif(h.connections, 0) AS share,
    1.0 * l.now / nullif(a.fd_limit, 0) AS limit_share
  FROM leaking AS l
  JOIN ends AS e USING (ns, holder, started)
  LEFT JOIN held AS h USING (ns, holder, started)
  LEFT JOIN fd_limits AS a ON a.pid = l.pid AND a.start_us = l.start_us
)
SELECT
  CASE WHEN 100.0 * n.limit_share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(coalesce(n.share, 0.5) AS DOUBLE) AS score, n.place AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.oldest_us / 1000000.0 AS DOUBLE) AS measured, CAST(p.age_s AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' does not close what its peers have closed ', n.side, ' ', n.place,
    printf(
      ': %,d connections in CLOSE-WAIT, %,d at the beginning, %,d for longer than %.0f s, the oldest for %.0f s',
      n.now, n.before, n.old, p.age_s, CAST(n.oldest_us / 1000000.0 AS DOUBLE)
    ),
    CASE WHEN n.fd_limit IS NOT NULL THEN printf('; it may have %,d descriptors', n.fd_limit) END
  ) AS sentence,
  'close_wait' AS report
FROM named AS n CROSS JOIN params AS p
