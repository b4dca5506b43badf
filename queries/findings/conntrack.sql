-- title = "A connection tracking table that fills up"
-- description = """
-- The firewall's table of connections (nf_conntrack) is nearly full, or was: the kernel drops packets
-- of new connections then, for all processes, and they see timeouts only. Look at who opens so many
-- connections (conntrack, if it was recorded; else churn, peers), shorten net.netfilter.nf_conntrack_tcp_timeout_*, or raise nf_conntrack_max.
-- """
-- needs = ["counters"]
-- uses = ["counter_steps", "counter_values", "endpoint", "netns_of", "tracked", "who"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of nf_conntrack_max in use: entries stay for minutes, so there must be room for a burst."
--
-- [params.drops]
-- type = "BIGINT"
-- default = 1
-- doc = "Packets dropped or entries thrown out as the table was full. The kernel counts only what it did."
WITH looks AS (
  SELECT
    ns, sample, min(sample_time) AS sample_time, max(value) FILTER (WHERE name = 'count') AS entries,
    -- 0 is no limit.
    nullif(max(value) FILTER (WHERE name = 'max'), 0) AS allowed,
    -- Sums of 32 bits that may begin again at 0.
    coalesce(sum(growth), 0) AS dropped
  FROM (
    SELECT ns, name, sample, sample_time, value, NULL AS growth
    FROM counter_values
    WHERE source = 'nf_conntrack' AND name IN ('count', 'max')
    UNION ALL
    SELECT ns, name, sample, sample_time, NULL AS value, growth
    FROM counter_steps
    WHERE source = 'nf_conntrack' AND name IN ('drop', 'early_drop') AND growth > 0
  ) AS readings
  GROUP BY ns, sample
),
tables AS (
  SELECT
    -- When it was fullest: who sees it may enlarge it.
    l.ns, max_by(l.entries, coalesce(1.0 * l.entries / l.allowed, 0.0)) AS entries,
    max_by(l.allowed, coalesce(1.0 * l.entries / l.allowed, 0.0)) AS allowed, sum(l.dropped) AS dropped,
    min(l.sample_time) FILTER (WHERE l.dropped > 0 OR 100.0 * l.entries >= p.percent * l.allowed) AS since,
    max(l.sample_time) FILTER (WHERE l.dropped > 0 OR 100.0 * l.entries >= p.percent * l.allowed) AS until
  FROM looks AS l CROSS JOIN params AS p
  GROUP BY l.ns
)
SELECT
  CASE WHEN t.dropped >= p.drops THEN 'critical' ELSE 'warning' END AS severity,
  CAST(
    CASE WHEN t.dropped >= p.drops OR t.entries > t.allowed THEN 1.0 ELSE 1.0 * t.entries / t.allowed END AS DOUBLE
  ) AS score,
  concat('network namespace ', netns_of(t.ns)) AS subject, netns_of(t.ns) AS netns,
  CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm, t.since, t.until,
  CAST(CASE WHEN t.dropped >= p.drops THEN t.dropped ELSE t.entries END AS DOUBLE) AS measured,
  CAST(CASE WHEN t.dropped >= p.drops THEN p.drops ELSE t.allowed END AS DOUBLE) AS threshold,
  concat(
    'the connection tracking table of network namespace ', netns_of(t.ns),
    CASE WHEN t.dropped >= p.drops THEN ' overflowed' ELSE ' is nearly full' END,
    CASE
      WHEN t.allowed > 0
        THEN printf(
          ': up to %,d of %,d entries (%.0f %%)', t.entries, t.allowed, CAST(100.0 * t.entries / t.allowed AS DOUBLE)
        )
    END,
    CASE WHEN t.dropped > 0 THEN printf(', packets or entries dropped: %,d', CAST(t.dropped AS BIGINT)) END,
    CASE
      WHEN g.source IS NOT NULL
        THEN concat(
          printf('; of %,d entries %,d are ', g.of_entries, g.entries), g.protocol, ' ' || g.state, ' from ', g.source, ' to ',
          coalesce(endpoint(g.destination, g.port), g.destination), CASE WHEN g.unreplied THEN ', never answered' END,
          CASE WHEN g.processes = 1 THEN concat(', ', CASE g.role WHEN 'serves' THEN 'served by ' ELSE 'of ' END, who(g.comm, g.pid)) END
        )
    END
  ) AS sentence,
  'counters' AS report
FROM tables AS t LEFT JOIN tracked AS g ON g.ns = t.ns AND g.place = 1 CROSS JOIN params AS p
WHERE t.dropped >= p.drops OR 100.0 * t.entries >= p.percent * t.allowed
