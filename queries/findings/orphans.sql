-- title = "Orphaned connections near their limit"
-- description = """
-- Connections that no process holds any more still have data or a FIN to deliver. The kernel keeps
-- net.ipv4.tcp_max_orphans of them on the whole host, resets those that retransmit from a quarter or
-- half of that on, and resets any when socket memory runs out: peers lose the end of what was sent.
-- Many of them are peers that vanished, or a server that closes with much still unsent.
-- """
-- needs = ["counters"]
-- uses = ["counter_values"]
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
WITH most AS (
  SELECT max(TRY_CAST(value AS BIGINT)) AS orphans
  FROM (
    SELECT max_by(value, sample) AS value
    FROM settings
    WHERE name = 'net.ipv4.tcp_max_orphans'
    GROUP BY netns
  ) AS latest
),
-- Each namespace shows the number of the whole host.
looks AS (
  SELECT sample, min(sample_time) AS sample_time, max(value) AS orphans
  FROM counter_values
  WHERE name = 'TCP.orphan' AND source = 'sockstat'
  GROUP BY sample
),
near AS (
  SELECT
    max(l.orphans) AS orphans,
    max(m.orphans) AS allowed,
    min(CASE WHEN 100.0 * l.orphans >= p.percent * m.orphans THEN l.sample_time END) AS since,
    max(CASE WHEN 100.0 * l.orphans >= p.percent * m.orphans THEN l.sample_time END) AS until
  FROM looks AS l
  CROSS JOIN most AS m
  CROSS JOIN params AS p
),
aborts AS (
  SELECT
    netns,
    sum(CASE WHEN growth > 0 THEN growth ELSE 0 END) AS aborted,
    min(CASE WHEN growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN growth > 0 THEN sample_time END) AS until
  FROM (
    SELECT
      netns,
      sample_time,
      value - lag(value) OVER (PARTITION BY netns, source ORDER BY sample, phase DESC) AS growth
    FROM counter_values
    WHERE name = 'TcpExt.TCPAbortOnMemory'
  ) AS readings
  GROUP BY netns
)
SELECT
  'warning' AS severity,
  CAST(CASE WHEN n.orphans > n.allowed THEN 1.0 ELSE 1.0 * n.orphans / n.allowed END AS DOUBLE) AS score,
  'this host' AS subject,
  CAST(NULL AS BIGINT) AS netns,
  CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.orphans AS DOUBLE) AS measured,
  CAST(n.allowed AS DOUBLE) AS threshold,
  printf(
    '%,d TCP connections that no process holds any more are %.0f %% of the %,d the kernel keeps (tcp_max_orphans)',
    n.orphans, CAST(100.0 * n.orphans / n.allowed AS DOUBLE), n.allowed
  ) AS sentence,
  'orphans' AS report
FROM near AS n
WHERE n.since IS NOT NULL AND n.allowed > 0
UNION ALL
SELECT
  'critical' AS severity,
  CAST(1.0 AS DOUBLE) AS score,
  concat('network namespace ', a.netns) AS subject,
  a.netns AS netns,
  CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm,
  a.since AS since,
  a.until AS until,
  CAST(a.aborted AS DOUBLE) AS measured,
  CAST(p.aborts AS DOUBLE) AS threshold,
  concat(
    'the kernel reset TCP connections in network namespace ',
    a.netns,
    printf(' as socket memory or the room for orphaned ones ran out: %,d', CAST(a.aborted AS BIGINT))
  ) AS sentence,
  'orphans' AS report
FROM aborts AS a
CROSS JOIN params AS p
WHERE a.aborted >= p.aborts
