-- title = "Connection attempts that fail"
-- description = """
-- A large share of the connections that processes of this host try to open fails: the peer refuses
-- them (nothing listens on that port), or they are given up unanswered. The kernel counts them for
-- a network namespace only; a socket that failed keeps its peer if it did not wait for the answer
-- (a non-blocking connect), and mostly no process that could be seen. If another address of the same
-- port answers, let the name resolve to that one, or listen on both (localhost is ::1 and 127.0.0.1):
-- where one process alone is known to use that one, and as often, it is probably the same that fails; and
-- so it is where some attempts to the same place are answered, and one process alone makes these.
-- Half-open connections that a peer takes back count too, so that they matter only where more
-- attempts fail than such probes explain. Where the peers are known, a share of the attempts to one
-- place is enough, if most failures are there: whatever else the host opens does not hide a service that
-- refuses.
-- """
-- needs = ["counters"]
-- uses = [
--   "connections", "counter_growth", "endpoint", "netns_of", "service_users", "the_only", "unmapped", "who",
-- ]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 25.0
-- doc = "Share of the attempts that fail, of all, which retries and the probing of several addresses (happy eyeballs) do not reach; or of those to the one place that fails most: an address that never answers is told."
--
-- [params.attempts]
-- type = "BIGINT"
-- default = 20
-- doc = "Failed attempts: of fewer a share says little, and a service that starts is tried for a while; a client that is refused twice a second makes so many in ten."
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
  WHERE k.failed >= p.attempts AND k.failed <= k.opened
),
tried AS MATERIALIZED (
  SELECT
    c.ns, unmapped(c.peer_addr) AS peer_addr, c.peer_port, c.comm, c.pid, count(*) FILTER (WHERE c.attempt = 'failed') AS failed,
    count(*) FILTER (WHERE c.attempt IS NULL) AS answered
  FROM connections AS c SEMI JOIN failing USING (ns)
  WHERE c.netid = 'tcp' AND (c.role = 'client' OR c.peer_port IS NULL)
  GROUP BY ALL
),
places AS (
  SELECT
    ns, peer_addr, peer_port, CAST(sum(failed) AS BIGINT) AS failed, CAST(sum(answered) AS BIGINT) AS answered,
    the_only(pid) AS pid, the_only(comm) AS comm
  FROM tried
  WHERE peer_port > 0
  GROUP BY ns, peer_addr, peer_port
),
named AS (
  SELECT
    f.*, d.failed AS there, 1.0 * d.failed / (d.failed + d.answered) AS share_there, endpoint(d.peer_addr, d.peer_port) AS destination,
    o.answered, endpoint(o.peer_addr, o.peer_port) AS other,
    coalesce(2 * s.failed > f.failed, false) AS is_known,
    -- Who tries one address and then the other does both as often.
    coalesce(o.answered BETWEEN d.failed / 2 AND 2 * d.failed, false) AS is_likely,
    coalesce(2 * d.answered >= d.failed, false) AND d.comm IS NOT NULL AS is_same,
    CASE
      WHEN is_known THEN s.pid
      WHEN is_same THEN d.pid
      WHEN is_likely AND o.comm IS NOT NULL THEN o.pid
      WHEN is_likely THEN u.pid
    END AS pid,
    CASE
      WHEN is_known THEN s.comm
      WHEN is_same THEN d.comm
      WHEN is_likely AND o.comm IS NOT NULL THEN o.comm
      WHEN is_likely THEN u.comm
    END AS comm,
    CASE
      WHEN is_known THEN who(s.comm, s.pid)
      WHEN is_same THEN 'probably ' || who(d.comm, d.pid)
      WHEN is_likely THEN 'probably ' || coalesce(who(o.comm, o.pid), u.who)
    END AS who
  FROM failing AS f
  LEFT JOIN (
    SELECT ns, comm, pid, sum(failed) AS failed
    FROM tried
    WHERE comm IS NOT NULL
    GROUP BY ns, comm, pid
    QUALIFY row_number() OVER (PARTITION BY ns ORDER BY sum(failed) DESC, comm, pid) = 1
  ) AS s USING (ns)
  LEFT JOIN (
    SELECT ns, peer_addr, peer_port, failed, answered, pid, comm
    FROM places
    QUALIFY row_number() OVER (PARTITION BY ns ORDER BY failed DESC, peer_addr, peer_port) = 1
  ) AS d ON d.ns = f.ns AND 2 * d.failed > f.failed
  LEFT JOIN places AS o ON o.ns = d.ns AND o.peer_port = d.peer_port AND o.peer_addr <> d.peer_addr AND o.answered > 0
  LEFT JOIN service_users AS u ON u.ns = o.ns AND u.peer_addr = o.peer_addr AND u.peer_port = o.peer_port
  QUALIFY row_number() OVER (PARTITION BY f.ns ORDER BY o.answered DESC NULLS LAST, o.peer_addr) = 1
)
SELECT
  'warning' AS severity, CAST(greatest(n.share, n.share_there) AS DOUBLE) AS score, coalesce(n.destination, concat('network namespace ', netns_of(n.ns))) AS subject,
  netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(100.0 * greatest(n.share, n.share_there) AS DOUBLE) AS measured, CAST(p.percent AS DOUBLE) AS threshold,
  concat(
    coalesce(n.who, 'an unknown process'), ' in network namespace ', netns_of(n.ns),
    printf(
      ' cannot connect: %,d of %,d attempts to open a connection failed (%.0f %%), refused or given up',
      CAST(n.failed AS BIGINT), CAST(n.opened AS BIGINT), CAST(100.0 * n.share AS DOUBLE)
    ),
    CASE
      -- Closes are told to the moment, counters are read in samples.
      WHEN n.there >= n.failed THEN concat(', all of them to ', n.destination)
      WHEN n.there > 0 THEN printf(', %,d of them to %s', CAST(n.there AS BIGINT), n.destination)
    END,
    CASE
      WHEN n.share_there = 1.0 AND 100.0 * n.share < p.percent THEN ', where none was answered'
      WHEN n.share_there < 1.0 THEN printf(', which are %.0f %% of those there', CAST(100.0 * n.share_there AS DOUBLE))
    END,
    CASE WHEN n.there > 0 AND n.answered > 0 THEN concat('; ', n.other, ' answers') END
  ) AS sentence,
  'churn' AS report
FROM named AS n CROSS JOIN params AS p
WHERE 100.0 * n.share >= p.percent OR (n.there >= p.attempts AND 100.0 * n.share_there >= p.percent)
