-- title = "Orphaned connections near their limit"
-- description = """
-- Connections that no process holds any more still have data or a FIN to deliver. The kernel keeps
-- net.ipv4.tcp_max_orphans of them on the whole host, resets those that retransmit from a quarter or
-- half of that on, and resets any when socket memory runs out: peers lose the end of what was sent.
-- Many of them are peers that vanished, or a server that closes with much still unsent.
-- """
-- needs = ["counters"]
-- uses = ["counter_growth", "kernel_orphans", "max_orphans"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of tcp_max_orphans: the kernel doubles or quadruples the number of those that retransmit before it compares, so at half of it it begins to reset them."
--
-- [params.aborts]
-- type = "BIGINT"
-- default = 1
-- doc = "Connections reset for want of memory or room (TCPAbortOnMemory): one is one too many."
WITH near AS (
  SELECT
    max(o.orphans) AS orphans, max(m.most) AS allowed,
    min(o.sample_time) FILTER (WHERE 100.0 * o.orphans >= p.percent * m.most) AS since,
    max(o.sample_time) FILTER (WHERE 100.0 * o.orphans >= p.percent * m.most) AS until
  FROM kernel_orphans AS o CROSS JOIN max_orphans AS m CROSS JOIN params AS p
)
SELECT
  'warning' AS severity, CAST(least(1.0, 1.0 * n.orphans / n.allowed) AS DOUBLE) AS score, 'this host' AS subject,
  CAST(NULL AS BIGINT) AS netns, CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm, n.since, n.until,
  CAST(n.orphans AS DOUBLE) AS measured, CAST(n.allowed AS DOUBLE) AS threshold,
  printf(
    '%,d TCP connections that no process holds any more are %.0f %% of the %,d the kernel keeps (tcp_max_orphans)',
    n.orphans, CAST(100.0 * n.orphans / n.allowed AS DOUBLE), n.allowed
  ) AS sentence,
  'orphans' AS report
FROM near AS n
WHERE n.since IS NOT NULL AND n.allowed > 0
UNION ALL
SELECT
  'critical' AS severity, CAST(1.0 AS DOUBLE) AS score, concat('network namespace ', g.netns) AS subject,
  g.netns, CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm, g.since, g.until,
  CAST(g.growth AS DOUBLE) AS measured, CAST(p.aborts AS DOUBLE) AS threshold,
  concat(
    'the kernel reset TCP connections in network namespace ', g.netns,
    printf(' as socket memory or the room for orphaned ones ran out: %,d', g.growth)
  ) AS sentence,
  'orphans' AS report
FROM counter_growth AS g CROSS JOIN params AS p
WHERE g.name = 'TcpExt.TCPAbortOnMemory' AND g.growth >= p.aborts
