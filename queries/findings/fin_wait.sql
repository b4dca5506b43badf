-- title = "Half-closed connections whose peers never close"
-- description = """
-- A process has closed its half of connections (shutdown) and keeps them open for the end of the peer,
-- which does not come: they stay in FIN-WAIT-2, each with a descriptor and memory, as long as the
-- process holds them; the kernel's own limit (net.ipv4.tcp_fin_timeout) is only for those that no
-- process holds. Close them after a while, whatever the peer does. One on which data still comes is
-- no such connection, nor do those count that a process closes in the end. How long they wait is known
-- by the kernel's own clock, too, so that those older than the recording are found.
-- """
-- needs = ["tcp", "inodes"]
-- uses = ["fd_limits", "half_closed_holders", "netns_of", "who"]
--
-- [params.age_s]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Seconds in FIN-WAIT-2 without a byte from which it is called forgotten: servers that linger for the end of a client do so for five seconds without data."
--
-- [params.sockets]
-- type = "BIGINT"
-- default = 5
-- doc = "Forgotten ones that came while it was recorded: a few peers are always slow to end."
--
-- [params.old_s]
-- type = "DOUBLE"
-- default = 60.0
-- doc = "Seconds without a byte from which they are told even if they do not get more: the kernel itself waits no longer (tcp_fin_timeout)."
--
-- [params.old_sockets]
-- type = "BIGINT"
-- default = 10
-- doc = "So many of these, or so many that are forgotten by the kernel's clock while others come and none is closed: that a few peers of a large server vanished is usual, and keepalive ends them."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the process's descriptor limit in FIN-WAIT-2 from which it is critical: accept() and open() fail at the limit."
WITH counted AS (
  SELECT
    h.*, len(list_filter(h.waits_us, lambda us: us >= 1000000.0 * p.age_s)) AS quiet,
    len(list_filter(h.waits_us, lambda us: us >= 1000000.0 * p.old_s)) AS old,
    len(list_filter(h.came_us, lambda us: us >= 1000000.0 * p.age_s)) AS forgotten,
    coalesce(len(list_filter(h.gave_up_us, lambda us: us >= 1000000.0 * p.age_s)), 0) AS closed_late
  FROM half_closed_holders AS h CROSS JOIN params AS p
  WHERE h.state = 'FIN-WAIT-2'
),
named AS (
  SELECT
    c.*, a.fd_limit, 1.0 * c.now / nullif(a.fd_limit, 0) AS limit_share
  FROM counted AS c
  CROSS JOIN params AS p
  LEFT JOIN fd_limits AS a ON a.pid = c.pid AND a.start_us = c.start_us
  WHERE (c.forgotten >= p.sockets AND c.now > c.before AND c.closed_late < c.forgotten)
    OR (c.quiet >= p.old_sockets AND c.now > c.before AND c.closed_late = 0)
    OR (c.old >= p.old_sockets AND c.closed_late < c.old)
)
SELECT
  CASE WHEN 100.0 * n.limit_share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(greatest(1.0 * n.quiet / n.now, 0.0) * 0.5 AS DOUBLE) AS score, n.place AS subject, netns_of(n.ns) AS netns, n.pid, n.comm,
  n.since, n.until, CAST(n.oldest_us / 1000000.0 AS DOUBLE) AS measured, CAST(p.age_s AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' has closed its half of connections ', n.side, ' ', n.place, ', and the peers do not close theirs',
    printf(
      ': %,d in FIN-WAIT-2, %,d at the beginning, %,d without a byte for longer than %.0f s, the oldest for %.0f s',
      n.now, n.before, n.quiet, p.age_s, CAST(n.oldest_us / 1000000.0 AS DOUBLE)
    ),
    CASE WHEN n.fd_limit IS NOT NULL THEN printf('; it may have %,d descriptors', n.fd_limit) END
  ) AS sentence,
  'fin_wait' AS report
FROM named AS n CROSS JOIN params AS p
