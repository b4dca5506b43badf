-- title = "Local ports that run out"
-- description = """
-- Connections from one local address to one destination need a local port each, and nearly all of
-- the range (net.ipv4.ip_local_port_range less the reserved ones) are taken: soon, or already,
-- connect() fails with EADDRNOTAVAIL. Keep and reuse connections; if most of them lie in TIME-WAIT,
-- let the other end close first, or use a wider range or more addresses. A port in TIME-WAIT that
-- the kernel would take again (net.ipv4.tcp_tw_reuse) does not count.
-- """
-- needs = ["tcp", "settings"]
-- uses = ["port_ranges"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of the range in use. From there on connect() has to search long for a free port, and little is left for a burst."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 95.0
-- doc = "Share from which it is critical: connect() fails, or will at the next burst."
WITH reuse AS (
  -- A port in TIME-WAIT can be taken again after a second: 1 always, 2 over loopback.
  SELECT
    netns,
    CASE
      WHEN max(CASE WHEN name = 'net.ipv4.tcp_timestamps' AND value = '0' THEN 1 ELSE 0 END) = 1 THEN '0'
      ELSE coalesce(
        max_by(
          CASE WHEN name = 'net.ipv4.tcp_tw_reuse' THEN value END,
          CASE WHEN name = 'net.ipv4.tcp_tw_reuse' THEN sample END
        ),
        '2'
      )
    END AS reuse
  FROM settings
  WHERE name IN ('net.ipv4.tcp_tw_reuse', 'net.ipv4.tcp_timestamps')
  GROUP BY netns
),
busy AS (
  -- By numbers and by socket first: the rows are read again for these few only.
  SELECT c.netns, c.peer_port
  FROM (
    SELECT
      s.netns,
      s.peer_port,
      r.ports,
      count(*) AS sockets
    FROM (
      SELECT
        netns,
        cookie,
        any_value(local_port) AS local_port,
        any_value(peer_port) AS peer_port
      FROM sockets
      WHERE netid = 'tcp'
      GROUP BY netns, cookie
    ) AS s
    JOIN port_ranges AS r
      ON r.netns = s.netns
      AND s.local_port BETWEEN r.low AND r.high
    GROUP BY s.netns, s.peer_port, r.ports
  ) AS c
  CROSS JOIN params AS p
  WHERE 100.0 * c.sockets >= p.percent * c.ports
  -- Never so many; but the planner may know that they are few.
  ORDER BY c.sockets DESC, c.netns, c.peer_port
  LIMIT 1000
),
used AS (
  SELECT
    s.netns,
    s.local_addr,
    s.peer_addr,
    s.peer_port,
    s.sample,
    s.sample_time,
    s.state,
    s.pid,
    s.comm
  FROM sockets AS s
  JOIN busy AS b
    ON b.netns = s.netns
    AND b.peer_port = s.peer_port
  JOIN port_ranges AS r
    ON r.netns = s.netns
  LEFT JOIN reuse AS u
    ON u.netns = s.netns
  WHERE s.netid = 'tcp'
    AND s.state NOT IN ('LISTEN', 'UNCONN')
    AND s.local_port BETWEEN r.low AND r.high
    AND NOT (
      s.state = 'TIME-WAIT'
      AND (
        coalesce(u.reuse, '2') = '1'
        OR (
          coalesce(u.reuse, '2') = '2'
          AND (
            s.local_addr LIKE '127.%'
            OR s.peer_addr LIKE '127.%'
            OR s.peer_addr LIKE '::ffff:127.%'
            OR s.peer_addr = '::1'
          )
        )
      )
    )
),
moments AS (
  SELECT
    netns,
    local_addr,
    peer_addr,
    peer_port,
    sample,
    min(sample_time) AS sample_time,
    count(*) AS held,
    count(CASE WHEN state = 'TIME-WAIT' THEN 1 END) AS waiting
  FROM used
  GROUP BY netns, local_addr, peer_addr, peer_port, sample
),
first_sample AS (
  SELECT min(sample) AS sample
  FROM sockets
),
peaks AS (
  -- In samples before the first with any there were none.
  SELECT
    m.netns,
    m.local_addr,
    m.peer_addr,
    m.peer_port,
    max(m.held) AS peak,
    max_by(m.sample, 1000000000 * m.held - m.sample) AS peak_sample,
    CASE WHEN min(m.sample) > min(f.sample) THEN 0 ELSE min_by(m.held, m.sample) END AS at_first
  FROM moments AS m
  CROSS JOIN first_sample AS f
  GROUP BY m.netns, m.local_addr, m.peer_addr, m.peer_port
),
rises AS (
  -- The rise begins after the last sample at the level of the beginning, or within 2 % of the rise.
  SELECT
    m.netns,
    m.local_addr,
    m.peer_addr,
    m.peer_port,
    max(
      CASE
        WHEN m.sample < k.peak_sample AND 50 * (m.held - k.at_first) <= k.peak - k.at_first THEN m.sample
      END
    ) AS low_sample
  FROM moments AS m
  JOIN peaks AS k
    ON k.netns = m.netns
    AND k.local_addr = m.local_addr
    AND k.peer_addr = m.peer_addr
    AND k.peer_port = m.peer_port
  GROUP BY m.netns, m.local_addr, m.peer_addr, m.peer_port
),
crowded AS (
  SELECT
    m.netns,
    m.local_addr,
    m.peer_addr,
    m.peer_port,
    r.ports,
    max(m.held) AS held,
    max_by(m.waiting, m.held) AS waiting,
    -- One that began with so many did so before it rose.
    min(
      CASE
        WHEN i.low_sample IS NULL
          OR m.sample > i.low_sample
          OR 100.0 * m.held >= p.percent * r.ports
          THEN m.sample_time
      END
    ) AS since,
    max(CASE WHEN 100.0 * m.held >= p.percent * r.ports THEN m.sample_time END) AS until
  FROM moments AS m
  JOIN port_ranges AS r
    ON r.netns = m.netns
  JOIN rises AS i
    ON i.netns = m.netns
    AND i.local_addr = m.local_addr
    AND i.peer_addr = m.peer_addr
    AND i.peer_port = m.peer_port
  CROSS JOIN params AS p
  GROUP BY m.netns, m.local_addr, m.peer_addr, m.peer_port, r.ports
  HAVING 100.0 * max(m.held) >= max(p.percent) * r.ports
),
holders AS (
  SELECT
    netns,
    local_addr,
    peer_addr,
    peer_port,
    comm,
    pid,
    count(*) AS rows_held
  FROM used
  GROUP BY netns, local_addr, peer_addr, peer_port, comm, pid
),
names AS (
  SELECT
    netns,
    local_addr,
    peer_addr,
    peer_port,
    comm,
    CASE WHEN count(*) = 1 THEN max(pid) END AS pid,
    count(*) AS processes,
    CASE
      WHEN 2 * sum(rows_held)
        > sum(sum(rows_held)) OVER (PARTITION BY netns, local_addr, peer_addr, peer_port)
        THEN 1
      ELSE 0
    END AS has_most,
    sum(CASE WHEN comm IS NULL THEN 0 ELSE 1 END) OVER (
      PARTITION BY netns, local_addr, peer_addr, peer_port
    ) AS candidates,
    row_number() OVER (
      PARTITION BY netns, local_addr, peer_addr, peer_port
      ORDER BY CASE WHEN comm IS NULL THEN 1 ELSE 0 END, sum(rows_held) DESC, comm
    ) AS place
  FROM holders
  GROUP BY netns, local_addr, peer_addr, peer_port, comm
),
named AS (
  SELECT
    c.*,
    1.0 * c.held / c.ports AS share,
    CASE WHEN n.candidates = 1 OR n.has_most = 1 THEN n.pid END AS pid,
    CASE WHEN n.candidates = 1 OR n.has_most = 1 THEN n.comm END AS comm,
    CASE
      WHEN n.comm IS NULL OR (n.candidates > 1 AND n.has_most = 0) THEN 'an unknown process'
      WHEN n.pid IS NULL THEN concat(n.comm, ' (', n.processes, ' processes)')
      ELSE concat(n.comm, ' (pid ', n.pid, ')')
    END AS who,
    CASE
      WHEN n.candidates = 1 AND n.has_most = 0 THEN ', the only one seen connected there,'
      ELSE ''
    END AS guess,
    CASE
      WHEN c.peer_addr LIKE '%:%' THEN concat('[', c.peer_addr, ']:', c.peer_port)
      ELSE concat(c.peer_addr, ':', c.peer_port)
    END AS destination
  FROM crowded AS c
  LEFT JOIN names AS n
    ON n.netns = c.netns
    AND n.local_addr = c.local_addr
    AND n.peer_addr = c.peer_addr
    AND n.peer_port = c.peer_port
    AND n.place = 1
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(CASE WHEN n.share > 1 THEN 1.0 ELSE n.share END AS DOUBLE) AS score,
  n.destination AS subject,
  n.netns AS netns,
  CAST(n.pid AS INTEGER) AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.held AS DOUBLE) AS measured,
  CAST(n.ports AS DOUBLE) AS threshold,
  concat(
    n.who,
    n.guess,
    ' uses up the local ports to ',
    n.destination,
    printf(
      ': %,d of %,d (%.0f %%) from %s, ', n.held, CAST(n.ports AS BIGINT), CAST(100.0 * n.share AS DOUBLE), n.local_addr
    ),
    CASE WHEN n.waiting > 0 THEN printf('%,d of them in TIME-WAIT, ', n.waiting) ELSE '' END,
    CASE
      WHEN n.held >= n.ports THEN 'none is left: connect() fails with EADDRNOTAVAIL'
      ELSE printf('left: %,d', CAST(n.ports - n.held AS BIGINT))
    END
  ) AS sentence,
  'port_exhaustion' AS report
FROM named AS n
CROSS JOIN params AS p
