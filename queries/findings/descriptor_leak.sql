-- title = "Processes that use up their descriptors"
-- description = """
-- A process with sockets has nearly as many descriptors open as it may have, or their number climbs
-- steadily towards that limit. At the limit socket(), accept() and open() fail with EMFILE. If
-- the sockets go to one place and none is given back, it forgets to close them; a higher limit
-- (ulimit -n, LimitNOFILE) only helps if it needs them all. In recordings that do
-- not tell what was open, only sockets are counted.
-- """
-- needs = ["sockets", "owners", "limits"]
-- lasts = 10.0
-- uses = ["descriptor_trends", "endpoint", "netns_of", "rise_time", "who"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of the limit that is in use: the next burst has to fit into the rest."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 95.0
-- doc = "Share from which it is critical: calls fail already, or with the next few connections."
--
-- [params.growth_percent]
-- type = "DOUBLE"
-- default = 20.0
-- doc = "Growth, as a share of the limit, from which a number that climbs all the time is called a leak: less may be a process that warms up."
--
-- [params.forecast_s]
-- type = "DOUBLE"
-- default = 3600.0
-- doc = "A leak is told if the limit is so near at its pace: what takes longer is often given back before."
WITH climbs AS MATERIALIZED (
  SELECT
    g.*, 1.0 * g.peak / g.fd_limit AS share,
    rise_time(g.levels, g.times, g.first_sample > f.sample, p.percent * g.fd_limit / 100.0) AS since,
    CASE WHEN g.first_sample > f.sample THEN 0 ELSE g.at_first END AS at_begin,
    100.0 * g.peak >= p.percent * g.fd_limit AS is_near,
    coalesce(
      g.left_s <= p.forecast_s AND round(g.per_second * g.rise_us) >= 10000.0 * p.growth_percent * g.fd_limit, false
    ) AS climbs
  FROM descriptor_trends AS g CROSS JOIN params AS p CROSS JOIN (SELECT min(sample) AS sample FROM sockets) AS f
  WHERE is_near OR climbs
  -- No host has so many; but the planner may know that they are few.
  ORDER BY share DESC, g.pid, g.start_us
  LIMIT 1000
),
kept AS (
  -- Of the sockets that it held at half time: those it holds still when four fifths are over.
  SELECT pid, start_us, count(*) FILTER (WHERE at_half) AS at_half, count(*) FILTER (WHERE at_half AND is_late) AS late
  FROM (
    SELECT
      c.pid, c.start_us, s.ns, s.cookie, bool_or(s.sample = c.half_sample) AS at_half, bool_or(s.sample = c.late_sample) AS is_late
    FROM climbs AS c
    JOIN sockets AS s ON s.pid = c.pid AND s.start_us = c.start_us AND s.sample IN (c.half_sample, c.late_sample)
    WHERE coalesce(s.owner_by, 'fd') = 'fd'
    GROUP BY c.pid, c.start_us, s.ns, s.cookie
  ) AS seen
  GROUP BY pid, start_us
),
picked AS MATERIALIZED (
  SELECT c.*, k.at_half, k.late
  FROM climbs AS c LEFT JOIN kept AS k USING (pid, start_us)
  WHERE c.is_near OR 2 * k.late >= k.at_half
  ORDER BY c.share DESC, c.pid, c.start_us
  LIMIT 1000
),
held AS (
  SELECT s.pid, s.start_us, s.ns, s.netid, s.local_addr, s.local_port, s.peer_addr, s.peer_port, s.comm
  FROM picked AS c
  JOIN sockets AS s ON s.pid = c.pid AND s.start_us = c.start_us AND s.sample = c.peak_sample
  WHERE coalesce(s.owner_by, 'fd') = 'fd'
),
places AS (
  -- Where most of them are, which is where to look.
  SELECT pid, start_us, ns, netid, side, endpoint(addr, port) AS place, count(*) AS there, max(comm) AS comm
  FROM (
    SELECT pid, start_us, ns, netid, 'on' AS side, local_addr AS addr, local_port AS port, comm FROM held
    UNION ALL
    SELECT pid, start_us, ns, netid, 'to', peer_addr, peer_port, comm FROM held WHERE peer_port > 0
  ) AS sides
  GROUP BY pid, start_us, ns, netid, side, addr, port
  QUALIFY row_number() OVER (PARTITION BY pid, start_us ORDER BY count(*) DESC, netid, side, addr, port, ns) = 1
),
named AS (
  SELECT c.*, l.ns, l.netid, l.side, l.place, l.there, l.comm, l.place IS NOT NULL AND 2 * l.there > c.peak_sockets AS is_place,
    who(coalesce(l.comm, 'a process'), c.pid) AS who
  FROM picked AS c LEFT JOIN places AS l USING (pid, start_us)
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(least(1.0, n.share) AS DOUBLE) AS score, CASE WHEN n.is_place THEN n.place ELSE n.who END AS subject,
  netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.peak AS DOUBLE) AS measured, CAST(n.fd_limit AS DOUBLE) AS threshold,
  concat(
    n.who,
    printf(' holds %,d %s of the %,d', n.peak, CASE WHEN n.all_known THEN 'descriptors' ELSE 'sockets' END, n.fd_limit),
    CASE WHEN n.all_known THEN ' it may have' ELSE ' descriptors it may have' END,
    printf(' (%.0f %%)', CAST(100.0 * n.share AS DOUBLE)),
    CASE WHEN n.at_begin IS NOT NULL THEN printf(', %,d at the beginning', n.at_begin) END,
    CASE WHEN n.all_known THEN printf('; %,d of them %s', n.peak_sockets, CASE WHEN n.peak_sockets = 1 THEN 'is a socket' ELSE 'are sockets' END) END,
    CASE
      WHEN n.is_place
        THEN printf(
          '%s %s%s %s %s', CASE WHEN n.all_known THEN ',' ELSE ':' END,
          CASE WHEN n.there < n.peak_sockets THEN printf('%,d of them are ', n.there) WHEN n.there > 1 THEN 'all of them ' ELSE '' END,
          n.netid, n.side, n.place
        )
    END,
    CASE
      WHEN NOT n.is_near
        THEN printf(
          '; of the %,d it held at half time it did not give back %,d, and at %,.1f more a second the limit is %,.0f s away',
          n.at_half, n.late, CAST(n.per_second AS DOUBLE), CAST(n.left_s AS DOUBLE)
        )
    END
  ) AS sentence,
  'process_sockets' AS report
FROM named AS n CROSS JOIN params AS p
