-- title = "Connections that a process never closes"
-- description = """
-- The peer has closed, and the process has not: its connections stay in CLOSE-WAIT, each with a
-- descriptor and memory, until it ends. That is always the process's own fault: an error path
-- without close(), or a pool that does not look. Those that only wait to be accepted do not count,
-- nor do a process that closes them in the end, and a number that does not grow.
-- """
-- needs = ["tcp"]
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
WITH span AS (
  SELECT netns, min(sample) AS first_sample, max(sample) AS last_sample
  FROM sockets
  WHERE netid IN ('tcp', 'mptcp')
  GROUP BY netns
),
waits AS (
  SELECT
    netns,
    cookie,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us,
    max_by(comm, sample) AS comm,
    min(sample) AS first_sample,
    max(sample) AS last_sample,
    min(sample_time) AS since,
    max(sample_time) AS until,
    max(t_us) - min(t_us) AS waited_us
  FROM sockets
  WHERE state = 'CLOSE-WAIT'
    AND netid IN ('tcp', 'mptcp')
    AND coalesce(inode, 1) <> 0
    AND (subflow IS NULL OR NOT subflow)
  GROUP BY netns, cookie
),
judged AS (
  SELECT
    w.*,
    CASE WHEN w.first_sample = s.first_sample THEN 1 ELSE 0 END AS was_there,
    CASE WHEN w.last_sample = s.last_sample THEN 1 ELSE 0 END AS is_there,
    CASE WHEN w.waited_us >= 1000000.0 * p.age_s THEN 1 ELSE 0 END AS is_old
  FROM waits AS w
  JOIN span AS s
    ON s.netns = w.netns
  CROSS JOIN params AS p
),
leaks AS (
  SELECT
    netns,
    coalesce(pid, -1) AS holder,
    coalesce(start_us, -1) AS start_us,
    max(pid) AS pid,
    max_by(comm, last_sample) AS comm,
    sum(was_there) AS at_first,
    sum(is_there) AS at_last,
    sum(is_there * is_old) AS old,
    sum((1 - was_there) * is_there * is_old) AS forgotten,
    sum((1 - is_there) * is_old) AS closed_late,
    max(CASE WHEN is_there = 1 THEN waited_us END) AS oldest_us,
    min(CASE WHEN is_there = 1 THEN since END) AS since,
    max(until) AS until
  FROM judged
  GROUP BY netns, coalesce(pid, -1), coalesce(start_us, -1)
),
leaking AS (
  SELECT l.*
  FROM leaks AS l
  CROSS JOIN params AS p
  WHERE l.forgotten >= p.sockets AND l.at_last > l.at_first AND l.closed_late < l.forgotten
),
ends AS (
  -- The end that most of them share: the own port of a server, the peer of a client.
  SELECT
    netns,
    coalesce(pid, -1) AS holder,
    coalesce(start_us, -1) AS start_us,
    side,
    addr,
    port,
    row_number() OVER (
      PARTITION BY netns, coalesce(pid, -1), coalesce(start_us, -1) ORDER BY count(*) DESC, side, addr, port
    ) AS place
  FROM (
    SELECT netns, pid, start_us, 'on' AS side, local_addr AS addr, local_port AS port FROM judged WHERE is_there = 1
    UNION ALL
    SELECT netns, pid, start_us, 'to' AS side, peer_addr AS addr, peer_port AS port FROM judged WHERE is_there = 1
  ) AS both_ends
  GROUP BY netns, coalesce(pid, -1), coalesce(start_us, -1), side, addr, port
),
held AS (
  SELECT
    l.netns,
    l.holder,
    l.start_us,
    count(*) AS connections
  FROM sockets AS s
  JOIN span AS n
    ON n.netns = s.netns
    AND n.last_sample = s.sample
  JOIN leaking AS l
    ON l.netns = s.netns
    AND l.holder = coalesce(s.pid, -1)
    AND l.start_us = coalesce(s.start_us, -1)
  WHERE s.netid IN ('tcp', 'mptcp')
    AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT')
    AND coalesce(s.inode, 1) <> 0
    AND (s.subflow IS NULL OR NOT s.subflow)
  GROUP BY l.netns, l.holder, l.start_us
),
allowed AS (
  SELECT pid, start_us, max_by(fd_limit, valid_from) AS fd_limit
  FROM owners
  GROUP BY pid, start_us
),
named AS (
  SELECT
    l.*,
    h.connections,
    a.fd_limit,
    1.0 * l.at_last / nullif(h.connections, 0) AS share,
    1.0 * l.at_last / nullif(a.fd_limit, 0) AS limit_share,
    e.side,
    CASE
      WHEN e.addr LIKE '%:%' THEN concat('[', e.addr, ']:', e.port)
      ELSE concat(e.addr, ':', e.port)
    END AS place
  FROM leaking AS l
  JOIN ends AS e
    ON e.netns = l.netns
    AND e.holder = l.holder
    AND e.start_us = l.start_us
    AND e.place = 1
  LEFT JOIN held AS h
    ON h.netns = l.netns
    AND h.holder = l.holder
    AND h.start_us = l.start_us
  LEFT JOIN allowed AS a
    ON a.pid = l.pid
    AND a.start_us = l.start_us
)
SELECT
  CASE WHEN 100.0 * n.limit_share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(coalesce(n.share, 0.5) AS DOUBLE) AS score,
  n.place AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.oldest_us / 1000000.0 AS DOUBLE) AS measured,
  CAST(p.age_s AS DOUBLE) AS threshold,
  concat(
    CASE WHEN n.comm IS NOT NULL THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    ' does not close what its peers have closed ',
    n.side,
    ' ',
    n.place,
    printf(
      ': %,d connections in CLOSE-WAIT, %,d at the beginning, %,d for longer than %.0f s, the oldest for %.0f s',
      CAST(n.at_last AS BIGINT), CAST(n.at_first AS BIGINT), CAST(n.old AS BIGINT), p.age_s,
      CAST(n.oldest_us / 1000000.0 AS DOUBLE)
    ),
    CASE WHEN n.fd_limit IS NOT NULL THEN printf('; it may have %,d descriptors', n.fd_limit) ELSE '' END
  ) AS sentence,
  'close_wait' AS report
FROM named AS n
CROSS JOIN params AS p
