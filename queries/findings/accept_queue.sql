-- title = "Accept queues that overflow"
-- description = """
-- A process does not accept its connections fast enough: more wait than its backlog allows, and the
-- kernel drops what else comes. Clients wait, try again and give up. Look at what the process was
-- doing at that time (blocked, out of descriptors, out of CPU); a larger backlog (listen(), and
-- net.core.somaxconn, whichever is less) only helps against short bursts.
-- """
-- needs = ["tcp"]
-- uses = ["counter_growth", "left_out", "listeners", "netns_of"]
--
-- [params.full_samples]
-- type = "BIGINT"
-- default = 2
-- doc = "Samples in which more wait than the backlog allows. One alone may be a burst that was accepted at once."
--
-- [params.drops]
-- type = "BIGINT"
-- default = 1
-- doc = "Connection attempts dropped at a full queue. The kernel counts only what it did drop, so one is one too many."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of drops in drops and accepted connections from which it is critical: every tenth client waits a second at least, the first retransmission of a SYN."
WITH kernel AS (
  SELECT
    ns, max(growth) FILTER (WHERE name = 'TcpExt.ListenOverflows') AS overflows,
    max(growth) FILTER (WHERE name = 'Tcp.PassiveOpens') AS accepted, max(s.since) AS since, max(s.until) AS until
  FROM counter_growth AS g
  LEFT JOIN (SELECT ns, min(sample_time) AS since, max(sample_time) AS until FROM samples GROUP BY ns) AS s USING (ns)
  WHERE name IN ('TcpExt.ListenOverflows', 'Tcp.PassiveOpens')
  GROUP BY ns
),
troubled AS MATERIALIZED (
  SELECT
    q.*, 1.0 * q.full_samples / q.samples AS full_share,
    coalesce(1.0 * q.drops / nullif(q.drops + k.accepted, 0), 0.0) AS dropped_share
  FROM listeners AS q LEFT JOIN kernel AS k USING (ns) CROSS JOIN params AS p
  WHERE q.netid IN ('tcp', 'sctp', 'dccp')
    -- A listener drops for want of memory too.
    AND (q.full_samples >= p.full_samples OR (q.drops >= p.drops AND (k.overflows IS NULL OR k.overflows > 0)))
)
SELECT
  CASE
    WHEN n.drops > 0 AND (n.full_samples >= p.full_samples OR 100.0 * n.dropped_share >= p.critical_percent) THEN 'critical'
    ELSE 'warning'
  END AS severity,
  -- What has reached its limit comes before what may: at least half.
  CAST(
    CASE WHEN n.drops > 0 THEN 0.5 + 0.5 * greatest(n.full_share, n.dropped_share) ELSE n.full_share END AS DOUBLE
  ) AS score,
  n.local AS subject, n.netns, n.pid, n.comm, least(n.full_since, n.drops_since) AS since,
  greatest(n.full_until, n.drops_until) AS until,
  CAST(CASE WHEN n.full_samples > 0 THEN n.queue_peak ELSE n.drops END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.full_samples > 0 THEN n.backlog ELSE p.drops END AS DOUBLE) AS threshold,
  concat(
    coalesce(n.who, 'an unknown process'),
    CASE WHEN n.drops > 0 THEN ' lets its accept queue on ' ELSE ' accepts too slowly: its accept queue on ' END,
    n.local, CASE WHEN n.drops > 0 THEN ' overflow: ' ELSE ' was ' END,
    CASE
      WHEN n.full_samples > 0
        THEN printf('full (%,d waited, %,d may) in %,d of %,d samples', n.queue_peak, n.backlog, n.full_samples, n.samples)
      ELSE printf('in bursts between samples, %,d may wait', n.backlog)
    END,
    CASE
      WHEN n.drops = 1 THEN ', 1 connection attempt dropped'
      WHEN n.drops > 1 THEN printf(', %,d connection attempts dropped', n.drops)
    END
  ) AS sentence,
  'listen_queues' AS report
FROM troubled AS n CROSS JOIN params AS p
UNION ALL
SELECT
  'warning' AS severity, CAST(coalesce(1.0 * k.overflows / nullif(k.overflows + k.accepted, 0), 0.0) AS DOUBLE) AS score,
  concat('network namespace ', netns_of(k.ns)) AS subject, netns_of(k.ns) AS netns,
  CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm, k.since, k.until,
  CAST(k.overflows AS DOUBLE) AS measured, CAST(p.drops AS DOUBLE) AS threshold,
  concat(
    'an unknown process lets an accept queue in network namespace ', netns_of(k.ns),
    printf(' overflow, one that is not among these sockets: connection attempts dropped: %,d', k.overflows)
  ) AS sentence,
  'listen_queues' AS report
FROM kernel AS k CROSS JOIN params AS p
WHERE k.overflows >= p.drops
  AND NOT EXISTS (SELECT 1 FROM left_out WHERE kind = 'tcp')
  AND NOT EXISTS (SELECT 1 FROM troubled AS t WHERE t.ns = k.ns)
