-- title = "Sockets that use up a process's descriptors"
-- description = """
-- A process holds nearly as many sockets as it may have descriptors, or their number climbs towards
-- that limit without ever falling. At the limit socket(), accept() and open() fail with EMFILE. If
-- the sockets go to one place and none is given back, it forgets to close them; a higher limit
-- (ulimit -n, LimitNOFILE) only helps if it needs them all. Files and pipes are not counted.
-- """
-- needs = ["sockets", "owners", "limits"]
-- uses = ["grown"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of the limit held in sockets: files, pipes and the next burst have to fit into the rest."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 95.0
-- doc = "Share from which it is critical: calls fail already, as files take descriptors too."
--
-- [params.growth_percent]
-- type = "DOUBLE"
-- default = 20.0
-- doc = "Growth, as a share of the limit, from which a number that never falls is called a leak: less may be a process that warms up."
--
-- [params.forecast_s]
-- type = "DOUBLE"
-- default = 3600.0
-- doc = "A leak is told if the limit is so near at its pace: what takes longer is often given back before."
WITH allowed AS (
  SELECT pid, start_us, max_by(fd_limit, valid_from) AS fd_limit
  FROM owners
  WHERE fd_limit IS NOT NULL
  GROUP BY pid, start_us
),
shown AS (
  SELECT
    pid,
    start_us,
    sample,
    min(sample_time) AS sample_time,
    min(t_us) AS t_us,
    count(*) AS sockets
  FROM sockets
  WHERE pid IS NOT NULL AND (owner_by = 'fd' OR (owner_by IS NULL AND coalesce(inode, 1) <> 0))
  GROUP BY pid, start_us, sample
),
moments AS (
  SELECT
    s.pid,
    s.start_us,
    s.sample,
    s.sample_time,
    s.t_us,
    s.sockets,
    a.fd_limit,
    min(s.t_us) OVER (PARTITION BY s.pid, s.start_us) AS begun_us,
    max(s.t_us) OVER (PARTITION BY s.pid, s.start_us) AS ended_us
  FROM shown AS s
  JOIN allowed AS a
    ON a.pid = s.pid
    AND a.start_us = s.start_us
),
grown AS (
  SELECT
    pid,
    start_us,
    fd_limit,
    min_by(sockets, sample) AS at_first,
    min(sample) AS first_sample,
    max_by(sockets, sample) AS at_last,
    max(sockets) AS peak,
    max_by(sample, 1000000000 * sockets - sample) AS peak_sample,
    max(CASE WHEN 3 * (t_us - begun_us) <= ended_us - begun_us THEN sockets END) AS most_early,
    min(CASE WHEN 3 * (ended_us - t_us) <= ended_us - begun_us THEN sockets END) AS least_late,
    -- Is it growing still: from the last fifth of the time on?
    min_by(sockets, CASE WHEN 5 * (ended_us - t_us) <= ended_us - begun_us THEN sample END) AS at_last_fifth,
    max(ended_us) - max(begun_us) AS span_us,
    min(sample_time) AS begun,
    max(sample_time) AS ended
  FROM moments
  GROUP BY pid, start_us, fd_limit
),
troubled AS (
  SELECT
    g.*,
    1.0 * g.peak / g.fd_limit AS share,
    1000000.0 * (g.at_last - g.at_first) / nullif(g.span_us, 0) AS per_second,
    CASE WHEN 100.0 * g.peak >= p.percent * g.fd_limit THEN 1 ELSE 0 END AS is_near,
    CASE
      WHEN g.at_last = g.peak
        AND g.least_late > g.most_early
        -- At no less than half the pace of before.
        AND 10 * (g.at_last - g.at_last_fifth) >= g.at_last - g.at_first
        THEN (g.fd_limit - g.at_last) * 1.0 * g.span_us / (1000000.0 * nullif(g.at_last - g.at_first, 0))
    END AS left_s
  FROM grown AS g
  CROSS JOIN params AS p
  WHERE g.fd_limit > 0
    AND (
      100.0 * g.peak >= p.percent * g.fd_limit
      OR 100.0 * (g.at_last - g.at_first) >= p.growth_percent * g.fd_limit
    )
),
chosen AS (
  SELECT t.*
  FROM troubled AS t
  CROSS JOIN params AS p
  WHERE t.is_near = 1 OR t.left_s <= p.forecast_s
),
starts AS (
  -- In samples before the first with any there were none.
  SELECT
    c.pid,
    c.start_us,
    c.peak,
    c.peak_sample,
    CASE WHEN c.first_sample > f.sample THEN 0 ELSE c.at_first END AS at_first
  FROM chosen AS c
  CROSS JOIN (SELECT min(sample) AS sample FROM sockets) AS f
),
levels AS (
  -- The rise begins after the last sample at the level of the beginning, or within 2 % of the rise.
  SELECT
    m.pid,
    m.start_us,
    max(CASE WHEN 50 * (m.sockets - c.at_first) <= c.peak - c.at_first THEN m.sample END) AS low_sample
  FROM moments AS m
  JOIN starts AS c
    ON c.pid = m.pid
    AND c.start_us = m.start_us
  WHERE m.sample < c.peak_sample
  GROUP BY m.pid, m.start_us
),
begun_by AS (
  SELECT
    m.pid,
    m.start_us,
    -- One that began with so many did so before it rose.
    min(
      CASE
        WHEN l.low_sample IS NULL
          OR m.sample > l.low_sample
          OR 100.0 * m.sockets >= p.percent * c.fd_limit
          THEN m.sample_time
      END
    ) AS since,
    max(m.sample_time) AS until
  FROM moments AS m
  JOIN chosen AS c
    ON c.pid = m.pid
    AND c.start_us = m.start_us
  LEFT JOIN levels AS l
    ON l.pid = m.pid
    AND l.start_us = m.start_us
  CROSS JOIN params AS p
  GROUP BY m.pid, m.start_us
),
held AS (
  SELECT
    c.pid,
    c.start_us,
    s.netns,
    s.netid,
    s.state,
    s.local_addr,
    s.local_port,
    s.peer_addr,
    s.peer_port,
    s.comm
  FROM chosen AS c
  JOIN sockets AS s
    ON s.pid = c.pid
    AND s.start_us = c.start_us
    AND s.sample = c.peak_sample
),
places AS (
  -- Where most of them are, which is where to look.
  SELECT
    pid,
    start_us,
    netns,
    netid,
    side,
    addr,
    port,
    sum(sockets) AS sockets,
    max(comm) AS comm,
    row_number() OVER (PARTITION BY pid, start_us ORDER BY sum(sockets) DESC, netid, side, addr, port, netns) AS place
  FROM (
    SELECT
      pid,
      start_us,
      netns,
      netid,
      'on' AS side,
      local_addr AS addr,
      local_port AS port,
      count(*) AS sockets,
      max(comm) AS comm
    FROM held
    GROUP BY pid, start_us, netns, netid, local_addr, local_port
    UNION ALL
    SELECT
      pid,
      start_us,
      netns,
      netid,
      'to' AS side,
      peer_addr AS addr,
      peer_port AS port,
      count(*) AS sockets,
      max(comm) AS comm
    FROM held
    WHERE peer_port > 0
    GROUP BY pid, start_us, netns, netid, peer_addr, peer_port
  ) AS sides
  GROUP BY pid, start_us, netns, netid, side, addr, port
),
named AS (
  SELECT
    c.*,
    b.since,
    b.until,
    l.netns,
    l.netid,
    l.side,
    l.sockets AS there,
    l.comm,
    CASE
      WHEN l.port IS NULL THEN l.addr
      WHEN l.addr LIKE '%:%' THEN concat('[', l.addr, ']:', l.port)
      ELSE concat(l.addr, ':', l.port)
    END AS place
  FROM chosen AS c
  JOIN begun_by AS b
    ON b.pid = c.pid
    AND b.start_us = c.start_us
  LEFT JOIN places AS l
    ON l.pid = c.pid
    AND l.start_us = c.start_us
    AND l.place = 1
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(CASE WHEN n.share > 1 THEN 1.0 ELSE n.share END AS DOUBLE) AS score,
  CASE
    WHEN n.place IS NOT NULL AND 2 * n.there > n.peak THEN n.place
    ELSE concat(coalesce(n.comm, 'a process'), ' (pid ', n.pid, ')')
  END AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.peak AS DOUBLE) AS measured,
  CAST(n.fd_limit AS DOUBLE) AS threshold,
  concat(
    coalesce(n.comm, 'a process'),
    ' (pid ',
    n.pid,
    ')',
    printf(
      ' holds %,d sockets of the %,d descriptors it may have (%.0f %%), %,d at the beginning',
      n.peak, n.fd_limit, CAST(100.0 * n.share AS DOUBLE), n.at_first
    ),
    CASE
      WHEN n.place IS NOT NULL AND 2 * n.there > n.peak
        THEN printf(': %,d of them are %s %s %s', CAST(n.there AS BIGINT), n.netid, n.side, n.place)
      ELSE ''
    END,
    CASE
      WHEN n.is_near = 0
        THEN printf(
          '; it never falls, and at %,.1f more a second the limit is %,.0f s away',
          CAST(n.per_second AS DOUBLE), CAST(n.left_s AS DOUBLE)
        )
      ELSE ''
    END
  ) AS sentence,
  'process_sockets' AS report
FROM named AS n
CROSS JOIN params AS p
