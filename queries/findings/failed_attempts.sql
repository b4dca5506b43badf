-- title = "Connection attempts that fail"
-- description = """
-- A large share of the connections that processes of this host try to open fails: the peer refuses
-- them (nothing listens on that port), or they are given up unanswered. The kernel counts them for
-- a network namespace only; a socket that failed keeps neither its peer nor, mostly, a process that
-- could be seen. Half-open connections that a peer takes back count too, so that they matter only
-- where more attempts fail than such probes explain.
-- """
-- needs = ["counters"]
-- uses = ["counter_growth", "netns_of", "who"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 25.0
-- doc = "Share of the attempts that fail: retries and the probing of several addresses (happy eyeballs) stay below."
--
-- [params.attempts]
-- type = "BIGINT"
-- default = 50
-- doc = "Failed attempts: of fewer a share says little, and a service that starts is tried for a while."
WITH failing AS (
  SELECT k.*, 1.0 * k.failed / k.opened AS share
  FROM (
    SELECT
      ns, coalesce(sum(growth) FILTER (WHERE name = 'Tcp.AttemptFails'), 0) AS failed,
      coalesce(sum(growth) FILTER (WHERE name = 'Tcp.ActiveOpens'), 0) AS opened,
      max(since) FILTER (WHERE name = 'Tcp.AttemptFails') AS since,
      max(until) FILTER (WHERE name = 'Tcp.AttemptFails') AS until
    FROM counter_growth
    WHERE name IN ('Tcp.ActiveOpens', 'Tcp.AttemptFails')
    GROUP BY ns
  ) AS k
  CROSS JOIN params AS p
  -- More failures than attempts are a peer's probes of a listener of ours.
  WHERE k.failed >= p.attempts AND k.failed <= k.opened AND 100.0 * k.failed >= p.percent * k.opened
),
named AS (
  SELECT
    f.*,
    CASE WHEN 2 * s.sockets > f.failed THEN s.pid END AS pid,
    CASE WHEN 2 * s.sockets > f.failed THEN s.comm END AS comm
  FROM failing AS f
  LEFT JOIN (
    SELECT ns, comm, pid, count(*) AS sockets
    FROM closes
    WHERE connection AND peer_port = 0 AND comm IS NOT NULL AND coalesce(owner_by, 'fd') <> 'listener'
    GROUP BY ns, comm, pid
  ) AS s USING (ns)
  QUALIFY row_number() OVER (PARTITION BY f.ns ORDER BY s.sockets DESC NULLS LAST, s.comm, s.pid) = 1
)
SELECT
  'warning' AS severity, CAST(n.share AS DOUBLE) AS score, concat('network namespace ', netns_of(n.ns)) AS subject,
  netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(100.0 * n.share AS DOUBLE) AS measured, CAST(p.percent AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' in network namespace ', netns_of(n.ns),
    printf(
      ' cannot connect: %,d of %,d attempts to open a connection failed (%.0f %%), refused or given up',
      CAST(n.failed AS BIGINT), CAST(n.opened AS BIGINT), CAST(100.0 * n.share AS DOUBLE)
    )
  ) AS sentence,
  'churn' AS report
FROM named AS n CROSS JOIN params AS p
