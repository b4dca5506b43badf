-- title = "Every counter at every reading"
-- description = """
-- The kernel's counters as they stood whenever they were read: counters holds only what changed, and
-- a value holds until the next change. A counter that is gone has no row. The whole is readings times
-- names: ask it WHERE name = …, which is quick.
-- """
-- uses = ["netns_of"]
--
-- [columns]
-- host = "Host that was recorded."
-- boot = "Boot of that host."
-- ns = "Network namespace of one boot of one host."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- netns = "Inode number of the network namespace; 0 for the whole host."
-- phase = "Read before or after the sockets of the sample."
-- source = "File: snmp, snmp6, netstat, sockstat, sockstat6, softnet_stat, nf_conntrack, file-nr."
-- name = "Name as the file has it, the group before: Tcp.ActiveOpens."
-- value = "The value."
-- t_us = "When the sample was begun, in microseconds UTC."
SELECT host, boot, ns, sample, sample_time, netns_of(ns) AS netns, phase, source, name, value, t_us
FROM (
  -- A reading belongs to the latest change at or before it. Windows instead of a range join, which
  -- would be quadratic; a condition on name reaches both branches.
  SELECT *, max(given) OVER (PARTITION BY ns, source, name, changes) AS value
  FROM (
    SELECT
      *,
      sum(change) OVER (
        PARTITION BY ns, source, name ORDER BY place, change DESC
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
      ) AS changes
    FROM (
      SELECT
        NULL AS host, NULL AS boot, NULL AS sample, NULL AS sample_time, NULL AS phase, NULL AS t_us,
        ns, source, name, value AS given, 1 AS change,
        2 * sample + CASE WHEN phase = 'after' THEN 1 ELSE 0 END AS place
      FROM raw.counters
      UNION ALL
      SELECT
        r.host, r.boot, r.sample, r.sample_time, r.phase, r.t_us,
        n.ns, n.source, n.name, NULL AS given, 0 AS change,
        2 * r.sample + CASE WHEN r.phase = 'after' THEN 1 ELSE 0 END AS place
      FROM (SELECT DISTINCT ns, source, name FROM raw.counters) AS n
      JOIN (
        SELECT DISTINCT
          host, boot, sample, sample_time, ns, t_us,
          CASE WHEN step = 'counters' THEN 'before' ELSE 'after' END AS phase
        FROM samples
        WHERE step IN ('counters', 'counters_after') AND outcome IN ('ok', 'partial')
      ) AS r USING (ns)
    ) AS marked
  ) AS numbered
) AS filled
WHERE change = 0 AND value IS NOT NULL
