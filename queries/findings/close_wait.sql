-- title = "Connections left in CLOSE-WAIT"
-- description = """
-- The peer has closed, and the process has not: its connections stay in CLOSE-WAIT, each with a
-- descriptor and memory, until it ends. That is always the process's own fault: an error path
-- without close(), or a pool that does not look. Those that only wait to be accepted do not count,
-- nor do a process that closes them in the end, and a few that do not get more. How long they wait is
-- known by the kernel's own clock, too: a leak that is older than the recording is found, and one that
-- began in it is before a minute has passed, if many have come and none was closed.
-- """
-- needs = ["tcp"]
-- uses = ["doing", "fd_limits", "half_closed_holders", "netns_of", "process_looks", "tcp_reads", "who"]
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
-- [params.old_sockets]
-- type = "BIGINT"
-- default = 10
-- doc = "So many that old are told even if none came while it was recorded: by the kernel's clock they are older than the recording, and nobody closes them."
--
-- [params.many]
-- type = "BIGINT"
-- default = 20
-- doc = "So many that came while it was recorded, of which none was closed, are told before they are so old."
--
-- [params.many_age_s]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Seconds in CLOSE-WAIT that each of these has: a process at work closes at once."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the process's descriptor limit in CLOSE-WAIT from which it is critical: accept() and open() fail at the limit."
WITH counted AS (
  SELECT
    h.*, len(list_filter(h.waits_us, lambda us: us >= 1000000.0 * p.age_s)) AS old,
    len(list_filter(h.waits_us, lambda us: us >= 1000000.0 * p.many_age_s)) AS young,
    len(list_filter(h.came_us, lambda us: us >= 1000000.0 * p.age_s)) AS forgotten,
    len(list_filter(h.gave_up_us, lambda us: us >= 1000000.0 * p.age_s)) AS closed_late,
    -- What one sample shows and the next does not was closed, however soon.
    h.holder >= 0 AND h.gave_up_us IS NULL AND len(list_filter(h.came_us, lambda us: us >= 1000000.0 * p.many_age_s)) >= p.many AS is_young
  FROM half_closed_holders AS h CROSS JOIN params AS p
  WHERE h.state = 'CLOSE-WAIT'
),
leaking AS (
  SELECT c.*
  FROM counted AS c CROSS JOIN params AS p
  WHERE (c.forgotten >= p.sockets AND c.now > c.before AND coalesce(c.closed_late, 0) < c.forgotten)
    OR (c.old >= p.old_sockets AND coalesce(c.closed_late, 0) < c.old)
    OR c.is_young
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
    l.*, a.fd_limit, 1.0 * l.now / nullif(h.connections, 0) AS share,
    1.0 * l.now / nullif(a.fd_limit, 0) AS limit_share
  FROM leaking AS l
  LEFT JOIN held AS h USING (ns, holder, started)
  LEFT JOIN fd_limits AS a ON a.pid = l.pid AND a.start_us = l.start_us
),
did AS (
  SELECT n.ns, n.place, n.side, n.pid, n.start_us, doing(l, epoch_us(n.since), epoch_us(n.until)) AS did, max_by(l.fds, l.at_us) AS fds
  FROM named AS n
  JOIN process_looks AS l
    ON l.pid = n.pid AND l.start_us = n.start_us AND l.at_us <= epoch_us(n.until) AND l.until_us >= epoch_us(n.since)
  GROUP BY n.ns, n.place, n.side, n.pid, n.start_us
)
SELECT
  CASE WHEN 100.0 * n.limit_share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(coalesce(n.share, 0.5) AS DOUBLE) AS score, n.place AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.oldest_us / 1000000.0 AS DOUBLE) AS measured, CAST(CASE WHEN n.old >= least(p.sockets, p.old_sockets) THEN p.age_s ELSE p.many_age_s END AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' does not close its connections ', n.side, ' ', n.place, ' that the peers have closed',
    printf(
      ': %,d connections in CLOSE-WAIT, %,d at the beginning, %,d for longer than %.0f s, the oldest for %.0f s',
      n.now, n.before, CASE WHEN n.old >= least(p.sockets, p.old_sockets) THEN n.old ELSE n.young END,
      CASE WHEN n.old >= least(p.sockets, p.old_sockets) THEN p.age_s ELSE p.many_age_s END,
      CAST(n.oldest_us / 1000000.0 AS DOUBLE)
    ),
    CASE
      WHEN n.fd_limit IS NOT NULL
        THEN printf('; it may have %,d descriptors%s', n.fd_limit, coalesce(printf(' and has %,d', d.fds), ''))
    END,
    '; ' || d.did
  ) AS sentence,
  'close_wait' AS report
FROM named AS n
LEFT JOIN did AS d USING (ns, place, side, pid, start_us)
CROSS JOIN params AS p
