-- title = "A connection tracking table that fills up"
-- description = """
-- The firewall's table of connections (nf_conntrack) is nearly full, or was: the kernel drops packets
-- of new connections then, for all processes, and they see timeouts only. Look at who opens so many
-- connections (churn, peers), shorten net.netfilter.nf_conntrack_tcp_timeout_*, or raise nf_conntrack_max.
-- """
-- needs = ["counters"]
-- uses = ["counter_values"]
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
WITH readings AS (
  SELECT
    netns,
    name,
    sample,
    sample_time,
    value,
    value - lag(value) OVER (PARTITION BY netns, name ORDER BY sample, phase DESC) AS growth
  FROM counter_values
  WHERE source = 'nf_conntrack' AND name IN ('count', 'max', 'drop', 'early_drop')
),
looks AS (
  SELECT
    netns,
    sample,
    min(sample_time) AS sample_time,
    max(CASE WHEN name = 'count' THEN value END) AS entries,
    -- 0 is no limit.
    nullif(max(CASE WHEN name = 'max' THEN value END), 0) AS allowed,
    -- Sums of 32 bits that may begin again at 0.
    sum(CASE WHEN name IN ('drop', 'early_drop') AND growth > 0 THEN growth ELSE 0 END) AS dropped
  FROM readings
  GROUP BY netns, sample
),
tables AS (
  SELECT
    l.netns,
    max(l.entries) AS entries,
    max(l.allowed) AS allowed,
    sum(l.dropped) AS dropped,
    min(CASE WHEN l.dropped > 0 OR 100.0 * l.entries >= p.percent * l.allowed THEN l.sample_time END) AS since,
    max(CASE WHEN l.dropped > 0 OR 100.0 * l.entries >= p.percent * l.allowed THEN l.sample_time END) AS until
  FROM looks AS l
  CROSS JOIN params AS p
  GROUP BY l.netns
)
SELECT
  CASE WHEN t.dropped >= p.drops THEN 'critical' ELSE 'warning' END AS severity,
  CAST(
    CASE
      WHEN t.dropped >= p.drops OR t.entries > t.allowed THEN 1.0
      ELSE 1.0 * t.entries / t.allowed
    END AS DOUBLE
  ) AS score,
  concat('network namespace ', t.netns) AS subject,
  t.netns AS netns,
  CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm,
  t.since AS since,
  t.until AS until,
  CAST(CASE WHEN t.dropped >= p.drops THEN t.dropped ELSE t.entries END AS DOUBLE) AS measured,
  CAST(CASE WHEN t.dropped >= p.drops THEN p.drops ELSE t.allowed END AS DOUBLE) AS threshold,
  concat(
    'the connection tracking table of network namespace ',
    t.netns,
    CASE WHEN t.dropped >= p.drops THEN ' overflowed' ELSE ' is nearly full' END,
    CASE
      WHEN t.allowed > 0
        THEN printf(
          ': up to %,d of %,d entries (%.0f %%)',
          t.entries, t.allowed, CAST(100.0 * t.entries / t.allowed AS DOUBLE)
        )
      ELSE ''
    END,
    CASE
      WHEN t.dropped > 0 THEN printf(', packets or entries dropped: %,d', CAST(t.dropped AS BIGINT))
      ELSE ''
    END
  ) AS sentence,
  'counters' AS report
FROM tables AS t
CROSS JOIN params AS p
WHERE t.dropped >= p.drops OR 100.0 * t.entries >= p.percent * t.allowed
