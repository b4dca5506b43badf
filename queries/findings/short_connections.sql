-- title = "Connections opened again and again"
-- description = """
-- A process opens a connection for nearly every request, at a rate that a minute of TIME-WAIT would
-- turn into a large part of the local ports: each costs a round trip or more, CPU at both ends, and
-- at a little more load ports or TIME-WAIT run out. Keep connections (keep-alive, a pool). Nearly
-- all of them live between two samples: they are known by the kernel's announcement of their end.
-- """
-- needs = ["closes", "settings"]
-- uses = ["doors", "port_ranges"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Connections of 60 s (a TIME-WAIT) at the busiest 10 s, as a share of the local ports or of tcp_max_tw_buckets, whichever is less. At half of it a doubled load, or a client that closes first, comes to the limit."
--
-- [params.short_percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of the connections to that place that live between two samples. Below it most are kept long enough for a pool."
WITH doors AS (
  SELECT
    netns,
    local_port,
    max_by(pid, sample) AS pid,
    max_by(comm, sample) AS comm
  -- Also those that --where did not choose.
  FROM raw.sockets
  WHERE state = 'LISTEN' AND netid = 'tcp'
  GROUP BY netns, local_port
),
ends AS (
  SELECT
    c.netns,
    c.t_us,
    c.time,
    c.local_addr,
    CASE WHEN d.netns IS NULL THEN c.peer_addr ELSE c.local_addr END AS addr,
    CASE WHEN d.netns IS NULL THEN c.peer_port ELSE c.local_port END AS port,
    CASE WHEN d.netns IS NULL THEN 'client' ELSE 'server' END AS role,
    c.comm,
    c.pid
  FROM closes AS c
  LEFT JOIN doors AS d
    ON d.netns = c.netns
    AND d.local_port = c.local_port
  -- What reset itself has lost its peer.
  WHERE c.connection AND NOT c.sampled AND (d.netns IS NOT NULL OR c.peer_port > 0)
),
slices AS (
  SELECT
    netns,
    addr,
    port,
    role,
    second,
    closed,
    since,
    until,
    sum(closed) OVER (
      PARTITION BY netns, addr, port, role ORDER BY second RANGE BETWEEN 9 PRECEDING AND CURRENT ROW
    ) AS closed_in_10_s
  FROM (
    SELECT
      netns,
      addr,
      port,
      role,
      CAST(floor(t_us / 1000000.0) AS BIGINT) AS second,
      count(*) AS closed,
      min(time) AS since,
      max(time) AS until
    FROM ends
    GROUP BY netns, addr, port, role, CAST(floor(t_us / 1000000.0) AS BIGINT)
  ) AS seconds
),
buckets AS (
  SELECT netns, TRY_CAST(max_by(value, sample) AS BIGINT) AS most
  FROM settings
  WHERE name = 'net.ipv4.tcp_max_tw_buckets'
  GROUP BY netns
),
rates AS (
  SELECT
    s.netns,
    s.addr,
    s.port,
    s.role,
    max(s.closed_in_10_s) / 10.0 AS rate,
    sum(s.closed) AS closed,
    min(s.since) AS since,
    max(s.until) AS until
  FROM slices AS s
  GROUP BY s.netns, s.addr, s.port, s.role
),
limits AS (
  SELECT
    r.*,
    CASE WHEN b.most < g.ports THEN b.most ELSE g.ports END AS most,
    CASE WHEN b.most < g.ports THEN 'TIME-WAIT sockets allowed' ELSE 'local ports' END AS of_what,
    row_number() OVER (PARTITION BY r.netns, r.addr, r.port ORDER BY r.rate DESC, r.role) AS place
  FROM rates AS r
  JOIN port_ranges AS g
    ON g.netns = r.netns
  LEFT JOIN buckets AS b
    ON b.netns = r.netns
  -- Where none may be in TIME-WAIT none keeps its port; and a range may be reserved wholly.
  WHERE g.ports > 0 AND coalesce(b.most, 1) > 0
),
churning AS (
  SELECT
    l.netns,
    l.addr,
    l.port,
    l.role,
    l.rate,
    l.closed,
    l.since,
    l.until,
    l.most,
    l.of_what,
    60.0 * l.rate / l.most AS share
  FROM limits AS l
  CROSS JOIN params AS p
  WHERE l.place = 1 AND 6000.0 * l.rate >= p.percent * l.most
  -- Never so many; but the planner may know that they are few.
  ORDER BY l.rate DESC, l.netns, l.addr, l.port
  LIMIT 1000
),
shown AS (
  SELECT
    netns,
    addr,
    port,
    role,
    cookie,
    seen_as,
    max(comm) AS comm,
    max(pid) AS pid
  FROM (
    SELECT
      c.netns,
      c.addr,
      c.port,
      c.role,
      s.cookie,
      'client' AS seen_as,
      s.comm,
      s.pid
    FROM churning AS c
    JOIN sockets AS s
      ON s.netns = c.netns
      AND s.peer_port = c.port
      AND s.peer_addr = c.addr
    WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT')
    UNION ALL
    SELECT
      c.netns,
      c.addr,
      c.port,
      c.role,
      s.cookie,
      'server' AS seen_as,
      s.comm,
      s.pid
    FROM churning AS c
    JOIN sockets AS s
      ON s.netns = c.netns
      AND s.local_port = c.port
      AND s.local_addr = c.addr
    WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT')
  ) AS of_both_ends
  GROUP BY netns, addr, port, role, cookie, seen_as
),
kept AS (
  SELECT
    netns,
    addr,
    port,
    count(*) AS connections
  FROM shown
  WHERE seen_as = role
  GROUP BY netns, addr, port
),
clients AS (
  SELECT
    netns,
    addr,
    port,
    comm,
    pid,
    sum(sockets) AS sockets
  FROM (
    SELECT
      netns,
      addr,
      port,
      comm,
      pid,
      count(*) AS sockets
    FROM shown
    WHERE seen_as = 'client' AND comm IS NOT NULL
    GROUP BY netns, addr, port, comm, pid
    UNION ALL
    SELECT
      netns,
      addr,
      port,
      comm,
      pid,
      count(*) AS sockets
    FROM ends
    WHERE role = 'client' AND comm IS NOT NULL
    GROUP BY netns, addr, port, comm, pid
  ) AS both_known
  GROUP BY netns, addr, port, comm, pid
),
names AS (
  SELECT
    netns,
    addr,
    port,
    comm,
    CASE WHEN count(*) = 1 THEN max(pid) END AS pid,
    count(*) AS processes,
    sum(sockets) AS sockets,
    count(*) OVER (PARTITION BY netns, addr, port) AS candidates,
    row_number() OVER (PARTITION BY netns, addr, port ORDER BY sum(sockets) DESC, comm) AS place
  FROM clients
  GROUP BY netns, addr, port, comm
),
named AS (
  SELECT
    c.netns,
    c.addr,
    c.port,
    c.rate,
    c.closed,
    c.since,
    c.until,
    c.most,
    c.of_what,
    c.share,
    coalesce(k.connections, 0) AS kept,
    -- Of several clients the one of which most is known, if that is most of what there was.
    CASE WHEN n.candidates = 1 OR 2 * n.sockets > c.closed THEN n.comm END AS client_comm,
    CASE WHEN n.candidates = 1 OR 2 * n.sockets > c.closed THEN n.pid END AS client_pid,
    n.processes,
    CASE
      WHEN n.candidates = 1 AND 2 * n.sockets <= c.closed THEN ', the only one seen connected there,'
      ELSE ''
    END AS guess,
    d.comm AS server_comm,
    d.pid AS server_pid,
    CASE
      WHEN c.addr LIKE '%:%' THEN concat('[', c.addr, ']:', c.port)
      ELSE concat(c.addr, ':', c.port)
    END AS destination
  FROM churning AS c
  LEFT JOIN kept AS k
    ON k.netns = c.netns
    AND k.addr = c.addr
    AND k.port = c.port
  LEFT JOIN names AS n
    ON n.netns = c.netns
    AND n.addr = c.addr
    AND n.port = c.port
    AND n.place = 1
  LEFT JOIN doors AS d
    ON d.netns = c.netns
    AND d.local_port = c.port
)
SELECT
  'warning' AS severity,
  -- No limit is reached yet: behind what has reached one.
  CAST(CASE WHEN n.share > 1 THEN 0.5 ELSE 0.5 * n.share END AS DOUBLE) AS score,
  n.destination AS subject,
  n.netns AS netns,
  CAST(CASE WHEN n.client_comm IS NOT NULL THEN n.client_pid ELSE n.server_pid END AS INTEGER) AS pid,
  CASE WHEN n.client_comm IS NOT NULL THEN n.client_comm ELSE n.server_comm END AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.rate AS DOUBLE) AS measured,
  CAST(p.percent * n.most / 6000.0 AS DOUBLE) AS threshold,
  concat(
    CASE
      WHEN n.client_comm IS NULL THEN 'an unknown process'
      WHEN n.client_pid IS NULL THEN concat(n.client_comm, ' (', n.processes, ' processes)', n.guess)
      ELSE concat(n.client_comm, ' (pid ', n.client_pid, ')', n.guess)
    END,
    printf(' opens %,.0f connections a second to ', CAST(n.rate AS DOUBLE)),
    n.destination,
    CASE
      WHEN n.server_comm IS NOT NULL THEN concat(' of ', n.server_comm, ' (pid ', n.server_pid, ')')
      ELSE ''
    END,
    printf(
      ': %,d of %,d ended before a sample could show them; a minute of it is ',
      CAST(n.closed AS BIGINT),
      CAST(n.closed + n.kept AS BIGINT)
    ),
    CASE
      WHEN n.share >= 2 THEN printf('%,.1f times', CAST(n.share AS DOUBLE))
      ELSE printf('%.0f %% of', CAST(100.0 * n.share AS DOUBLE))
    END,
    printf(' the %,d ', CAST(n.most AS BIGINT)),
    n.of_what
  ) AS sentence,
  'short_lived' AS report
FROM named AS n
CROSS JOIN params AS p
WHERE 100.0 * n.closed >= p.short_percent * (n.closed + n.kept)
