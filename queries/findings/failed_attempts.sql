-- title = "Connection attempts that fail"
-- description = """
-- A large share of the connections that processes of this host try to open fails: the peer refuses
-- them (nothing listens on that port), or they are given up unanswered. The kernel counts them for
-- a network namespace only; a socket that failed keeps neither its peer nor, mostly, a process that
-- could be seen. Half-open connections that a peer takes back count too, so that they matter only
-- where more attempts fail than such probes explain.
-- """
-- needs = ["counters"]
-- uses = ["counter_values"]
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
WITH readings AS (
  SELECT
    netns,
    name,
    sample_time,
    value - lag(value) OVER (PARTITION BY netns, source, name ORDER BY sample, phase DESC) AS growth
  FROM counter_values
  WHERE name IN ('Tcp.ActiveOpens', 'Tcp.AttemptFails')
),
kernel AS (
  SELECT
    netns,
    sum(CASE WHEN name = 'Tcp.AttemptFails' AND growth > 0 THEN growth ELSE 0 END) AS failed,
    sum(CASE WHEN name = 'Tcp.ActiveOpens' AND growth > 0 THEN growth ELSE 0 END) AS opened,
    min(CASE WHEN name = 'Tcp.AttemptFails' AND growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN name = 'Tcp.AttemptFails' AND growth > 0 THEN sample_time END) AS until
  FROM readings
  GROUP BY netns
),
failing AS (
  SELECT k.*, 1.0 * k.failed / k.opened AS share
  FROM kernel AS k
  CROSS JOIN params AS p
  -- More failures than attempts are a peer's probes of a listener of ours.
  WHERE k.failed >= p.attempts AND k.failed <= k.opened AND 100.0 * k.failed >= p.percent * k.opened
),
suspects AS (
  SELECT
    netns,
    comm,
    pid,
    count(*) AS sockets
  FROM closes
  WHERE connection AND peer_port = 0 AND comm IS NOT NULL AND coalesce(owner_by, 'fd') <> 'listener'
  GROUP BY netns, comm, pid
),
named AS (
  SELECT
    f.*,
    s.pid,
    s.comm,
    row_number() OVER (PARTITION BY f.netns ORDER BY s.sockets DESC NULLS LAST, s.comm, s.pid) AS place,
    CASE WHEN 2 * s.sockets > f.failed THEN 1 ELSE 0 END AS is_most
  FROM failing AS f
  LEFT JOIN suspects AS s
    ON s.netns = f.netns
)
SELECT
  'warning' AS severity,
  CAST(n.share AS DOUBLE) AS score,
  concat('network namespace ', n.netns) AS subject,
  n.netns AS netns,
  CASE WHEN n.is_most = 1 THEN n.pid END AS pid,
  CASE WHEN n.is_most = 1 THEN n.comm END AS comm,
  n.since AS since,
  n.until AS until,
  CAST(100.0 * n.share AS DOUBLE) AS measured,
  CAST(p.percent AS DOUBLE) AS threshold,
  concat(
    CASE WHEN n.is_most = 1 THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    ' in network namespace ',
    n.netns,
    printf(
      ' cannot connect: %,d of %,d attempts to open a connection failed (%.0f %%), refused or given up',
      CAST(n.failed AS BIGINT), CAST(n.opened AS BIGINT), CAST(100.0 * n.share AS DOUBLE)
    )
  ) AS sentence,
  'churn' AS report
FROM named AS n
CROSS JOIN params AS p
WHERE n.place = 1
