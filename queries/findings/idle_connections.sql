-- title = "Idle connections that pile up"
-- description = """
-- A process opens connection after connection to one place, uses each once at most, and keeps them
-- all: a pool that finds none of its own, or a client made anew for each request and never closed.
-- However far the limit of descriptors is, both ends keep memory for each. Or one client of a service
-- here does so, and holds far more than any other: that may be a proxy, and is a note. Where many of
-- them ended at once, as when a server restarts, they came anew and did not get more.
-- """
-- needs = ["tcp", "tcp_info", "listeners", "inodes"]
-- lasts = 10.0
-- uses = ["endpoint", "idle_pools", "netns_of", "unmapped", "who"]
--
-- [params.connections]
-- type = "BIGINT"
-- default = 10
-- doc = "Connections not used again of those that came while it was recorded: a pool that is filled once for later has mostly fewer."
--
-- [params.late_percent]
-- type = "DOUBLE"
-- default = 25.0
-- doc = "Share of those that came in the second half of the time: below it a pool was filled, and is full."
--
-- [params.used_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of those that were used again, or closed, above which they are a pool at work."
--
-- [params.fall_percent]
-- type = "DOUBLE"
-- default = 20.0
-- doc = "Share of them that ended between two samples, above which they are opened anew: what is only kept gets more all the time."
--
-- [params.times]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "A client of a service here holds so many times as many as the one with the second most, of three at least."
WITH growing AS (
  SELECT
    *, max(connections) OVER others AS next_most, sum(connections) OVER service AS in_all,
    count(*) FILTER (WHERE connections > 0) OVER service AS clients
  FROM idle_pools
  WINDOW
    service AS (PARTITION BY ns, role, port),
    others AS (
      PARTITION BY ns, role, port ORDER BY connections DESC, addr ROWS BETWEEN 1 FOLLOWING AND 1 FOLLOWING
    )
),
told AS MATERIALIZED (
  SELECT g.*
  FROM growing AS g CROSS JOIN params AS p
  WHERE g.unused >= p.connections
    AND 100.0 * g.came_late >= p.late_percent * g.came
    AND 100.0 * (g.reused + g.given_back) <= p.used_percent * g.unused
    AND (g.role = 'client' OR (g.clients >= 3 AND g.connections >= p.times * g.next_most))
),
levels AS (
  SELECT t.ns, t.role, t.addr, t.port, coalesce(t.pid, -1) AS holder, s.sample, count(*) AS connections
  FROM told AS t
  JOIN sockets AS s
    ON s.ns = t.ns AND CASE WHEN t.role = 'client' THEN s.peer_port ELSE s.local_port END = t.port AND unmapped(s.peer_addr) = t.addr
    AND (t.role = 'server' OR s.pid IS NOT DISTINCT FROM t.pid)
  WHERE s.netid = 'tcp' AND s.state = 'ESTAB' AND s.inode > 0
  GROUP BY t.ns, t.role, t.addr, t.port, coalesce(t.pid, -1), s.sample
),
renewed AS (
  SELECT ns, role, addr, port, holder
  FROM (
    SELECT *, lag(connections) OVER (PARTITION BY ns, role, addr, port, holder ORDER BY sample) - connections AS fall FROM levels
  ) AS steps
  CROSS JOIN params AS p
  GROUP BY ns, role, addr, port, holder, p.fall_percent
  HAVING 100.0 * max(steps.fall) > p.fall_percent * max(steps.connections)
)
SELECT
  CASE WHEN n.role = 'client' THEN 'warning' ELSE 'note' END AS severity, CAST(0.5 * n.unused / n.connections AS DOUBLE) AS score,
  CASE WHEN n.role = 'client' THEN endpoint(n.addr, n.port) ELSE n.addr END AS subject, netns_of(n.ns) AS netns, n.pid, n.comm,
  n.since, n.until, CAST(n.unused AS DOUBLE) AS measured, CAST(p.connections AS DOUBLE) AS threshold,
  concat(
    CASE
      WHEN n.role = 'client'
        THEN concat(
          coalesce(who(n.comm, n.pid), 'an unknown process'),
          printf(' opens connection after connection to %s and keeps them: %,d are open, %,d at the beginning', endpoint(n.addr, n.port), n.connections, n.at_first)
        )
      ELSE concat(
        n.addr, printf(' holds %,d of the %,d connections', n.connections, CAST(n.in_all AS BIGINT)), ' on port ', n.port,
        ' of ' || who(n.comm, n.pid), printf(', %,d at the beginning, and no other of %,d clients more than %,d', n.at_first, n.clients, n.next_most)
      )
    END,
    printf(
      '; %,d of those that came since were not used again, the longest for %.0f s, and %,d were used again or closed',
      n.unused, CAST(n.idle_us / 1000000.0 AS DOUBLE), n.reused + n.given_back
    )
  ) AS sentence,
  'idle_connections' AS report
FROM told AS n CROSS JOIN params AS p
WHERE NOT EXISTS (
  SELECT 1
  FROM renewed AS r
  WHERE r.ns = n.ns AND r.role = n.role AND r.addr = n.addr AND r.port = n.port AND r.holder = coalesce(n.pid, -1)
)
