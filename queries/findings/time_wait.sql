-- title = "TIME-WAIT that comes near a limit"
-- description = """
-- The end of a connection that closes first keeps its addresses and ports for a minute in TIME-WAIT.
-- Many of them do no harm until they near a limit: the local ports to one destination, which a
-- client cannot use meanwhile, or net.ipv4.tcp_max_tw_buckets, above which the kernel forgets
-- connections too early. Keep connections instead of opening one for each request, or let the other
-- end close first. Ports that the kernel would take again (net.ipv4.tcp_tw_reuse) do not count.
-- """
-- needs = ["tcp", "settings"]
-- uses = ["counter_values", "doors", "port_ranges"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 60.0
-- doc = "Share of the local ports that lie in TIME-WAIT to one destination. They stay for a minute whatever is done, so there must be room for a minute's growth; from 80 % on it is port exhaustion."
--
-- [params.buckets_percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of tcp_max_tw_buckets. Above it the kernel drops them: TCPTimeWaitOverflow."
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
doors AS (
  SELECT DISTINCT netns, local_port
  FROM raw.sockets
  WHERE state = 'LISTEN' AND netid = 'tcp'
),
parked AS (
  SELECT
    s.netns,
    s.cookie,
    s.local_addr,
    CASE WHEN d.netns IS NULL THEN s.peer_addr ELSE s.local_addr END AS addr,
    CASE WHEN d.netns IS NULL THEN s.peer_port ELSE s.local_port END AS port,
    CASE WHEN d.netns IS NULL THEN 'client' ELSE 'server' END AS role,
    r.ports,
    CASE
      WHEN s.local_port NOT BETWEEN r.low AND r.high OR u.reuse = '1' THEN 0
      WHEN coalesce(u.reuse, '2') = '2'
        AND (
          s.local_addr LIKE '127.%'
          OR s.peer_addr LIKE '127.%'
          OR s.peer_addr LIKE '::ffff:127.%'
          OR s.peer_addr = '::1'
        )
        THEN 0
      ELSE 1
    END AS blocks
  FROM (
    SELECT
      netns,
      cookie,
      any_value(local_addr) AS local_addr,
      any_value(local_port) AS local_port,
      any_value(peer_addr) AS peer_addr,
      any_value(peer_port) AS peer_port
    FROM sockets
    WHERE state = 'TIME-WAIT'
    GROUP BY netns, cookie
  ) AS s
  LEFT JOIN doors AS d
    ON d.netns = s.netns
    AND d.local_port = s.local_port
  LEFT JOIN port_ranges AS r
    ON r.netns = s.netns
  LEFT JOIN reuse AS u
    ON u.netns = s.netns
),
places AS (
  SELECT
    netns,
    local_addr,
    addr,
    port,
    role,
    max(ports) AS ports,
    count(*) AS sockets,
    sum(blocks) AS blocking
  FROM parked
  GROUP BY netns, local_addr, addr, port, role
),
waits AS (
  -- How many at once, of the few places that had so many in all.
  SELECT
    k.netns,
    k.local_addr,
    k.addr,
    k.port,
    k.role,
    k.ports,
    s.sample,
    min(s.sample_time) AS sample_time,
    count(*) AS waiting
  FROM sockets AS s
  JOIN parked AS k
    ON k.netns = s.netns
    AND k.cookie = s.cookie
    AND k.blocks = 1
  JOIN places AS l
    ON l.netns = k.netns
    AND l.local_addr = k.local_addr
    AND l.addr = k.addr
    AND l.port = k.port
    AND l.role = k.role
  CROSS JOIN params AS p
  WHERE s.state = 'TIME-WAIT' AND l.role = 'client' AND 100.0 * l.blocking >= p.percent * l.ports
  GROUP BY k.netns, k.local_addr, k.addr, k.port, k.role, k.ports, s.sample
),
first_sample AS (
  SELECT min(sample) AS sample
  FROM sockets
),
peaks AS (
  -- In samples before the first with any there were none.
  SELECT
    w.netns,
    w.local_addr,
    w.addr,
    w.port,
    w.role,
    max(w.waiting) AS peak,
    max_by(w.sample, 1000000000 * w.waiting - w.sample) AS peak_sample,
    CASE WHEN min(w.sample) > min(f.sample) THEN 0 ELSE min_by(w.waiting, w.sample) END AS at_first
  FROM waits AS w
  CROSS JOIN first_sample AS f
  GROUP BY w.netns, w.local_addr, w.addr, w.port, w.role
),
rises AS (
  -- The rise begins after the last sample at the level of the beginning, or within 2 % of the rise.
  SELECT
    w.netns,
    w.local_addr,
    w.addr,
    w.port,
    w.role,
    max(
      CASE
        WHEN w.sample < k.peak_sample AND 50 * (w.waiting - k.at_first) <= k.peak - k.at_first
          THEN w.sample
      END
    ) AS low_sample
  FROM waits AS w
  JOIN peaks AS k
    ON k.netns = w.netns
    AND k.local_addr = w.local_addr
    AND k.addr = w.addr
    AND k.port = w.port
    AND k.role = w.role
  GROUP BY w.netns, w.local_addr, w.addr, w.port, w.role
),
crowded AS (
  SELECT
    w.netns,
    w.local_addr,
    w.addr,
    w.port,
    w.role,
    max(w.waiting) AS waiting,
    max(w.ports) AS most,
    -- One that began with so many did so before it rose.
    min(
      CASE
        WHEN i.low_sample IS NULL
          OR w.sample > i.low_sample
          OR 100.0 * w.waiting >= p.percent * w.ports
          THEN w.sample_time
      END
    ) AS since,
    max(CASE WHEN 100.0 * w.waiting >= p.percent * w.ports THEN w.sample_time END) AS until
  FROM waits AS w
  JOIN rises AS i
    ON i.netns = w.netns
    AND i.local_addr = w.local_addr
    AND i.addr = w.addr
    AND i.port = w.port
    AND i.role = w.role
  CROSS JOIN params AS p
  GROUP BY w.netns, w.local_addr, w.addr, w.port, w.role
  HAVING 100.0 * max(w.waiting) >= max(p.percent) * max(w.ports)
),
buckets AS (
  SELECT netns, TRY_CAST(max_by(value, sample) AS BIGINT) AS most
  FROM settings
  WHERE name = 'net.ipv4.tcp_max_tw_buckets'
  GROUP BY netns
),
overflows AS (
  SELECT
    netns,
    sum(CASE WHEN growth > 0 THEN growth ELSE 0 END) AS dropped,
    min(CASE WHEN growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN growth > 0 THEN sample_time END) AS until
  FROM (
    SELECT
      netns,
      sample_time,
      value - lag(value) OVER (PARTITION BY netns, source ORDER BY sample, phase DESC) AS growth
    FROM counter_values
    WHERE name = 'TcpExt.TCPTimeWaitOverflow'
  ) AS readings
  GROUP BY netns
),
totals AS (
  SELECT
    netns,
    sample,
    count(*) AS waiting,
    min(sample_time) AS sample_time
  FROM sockets
  WHERE state = 'TIME-WAIT'
  GROUP BY netns, sample
),
heaps AS (
  SELECT
    t.netns,
    max(t.waiting) AS peak,
    max_by(t.sample, 1000000000 * t.waiting - t.sample) AS peak_sample,
    CASE WHEN min(t.sample) > min(f.sample) THEN 0 ELSE min_by(t.waiting, t.sample) END AS at_first
  FROM totals AS t
  CROSS JOIN first_sample AS f
  GROUP BY t.netns
),
heaping AS (
  SELECT
    t.netns,
    max(
      CASE
        WHEN t.sample < h.peak_sample AND 50 * (t.waiting - h.at_first) <= h.peak - h.at_first
          THEN t.sample
      END
    ) AS low_sample,
    max(h.peak) AS peak
  FROM totals AS t
  JOIN heaps AS h
    ON h.netns = t.netns
  GROUP BY t.netns
),
heaped AS (
  SELECT
    t.netns,
    max(b.most) AS most,
    max(t.waiting) AS waiting,
    max(coalesce(o.dropped, 0)) AS dropped,
    min(
      CASE
        -- Dropped, but not seen near the limit: when that began is not known.
        WHEN b.most IS NULL OR 100.0 * h.peak < p.buckets_percent * b.most THEN o.since
        WHEN h.low_sample IS NULL
          OR t.sample > h.low_sample
          OR 100.0 * t.waiting >= p.buckets_percent * b.most
          THEN t.sample_time
      END
    ) AS since,
    max(CASE WHEN 100.0 * t.waiting >= p.buckets_percent * b.most THEN t.sample_time ELSE o.until END) AS until
  FROM totals AS t
  JOIN heaping AS h
    ON h.netns = t.netns
  LEFT JOIN buckets AS b
    ON b.netns = t.netns
  LEFT JOIN overflows AS o
    ON o.netns = t.netns
  CROSS JOIN params AS p
  WHERE 100.0 * h.peak >= p.buckets_percent * b.most OR o.dropped > 0
  GROUP BY t.netns
),
largest AS (
  SELECT
    netns,
    local_addr,
    addr,
    port,
    role,
    row_number() OVER (PARTITION BY netns ORDER BY sockets DESC, addr, port, local_addr) AS place
  FROM places
),
limits AS (
  SELECT *
  FROM (
    SELECT
      netns,
      local_addr,
      addr,
      port,
      role,
      'ports' AS limited_by,
      waiting,
      most,
      CAST(NULL AS BIGINT) AS dropped,
      since,
      until
    FROM crowded
    UNION ALL
    SELECT
      h.netns,
      l.local_addr,
      l.addr,
      l.port,
      l.role,
      'buckets' AS limited_by,
      h.waiting,
      h.most,
      h.dropped,
      h.since,
      h.until
    FROM heaped AS h
    JOIN largest AS l
      ON l.netns = h.netns
      AND l.place = 1
    WHERE NOT EXISTS (SELECT 1 FROM crowded AS c WHERE c.netns = h.netns)
  ) AS of_both
  -- Never so many; but the planner may know that they are few.
  ORDER BY waiting DESC, netns, local_addr, addr, port
  LIMIT 1000
),
holders AS (
  -- Short connections are rarely seen while a process holds them: others to the same place tell.
  SELECT
    l.netns,
    l.local_addr,
    l.addr,
    l.port,
    s.comm,
    s.pid,
    count(CASE WHEN s.state = 'TIME-WAIT' THEN 1 END) AS waiting,
    count(*) AS rows_held
  FROM limits AS l
  JOIN sockets AS s
    ON s.netns = l.netns
    AND s.netid = 'tcp'
    AND CASE WHEN l.role = 'client' THEN s.peer_port ELSE s.local_port END = l.port
    AND (
      CASE WHEN l.role = 'client' THEN s.peer_addr ELSE s.local_addr END = l.addr
      OR (l.role = 'server' AND s.state = 'LISTEN')
    )
    AND (l.role = 'server' OR s.local_addr = l.local_addr)
  GROUP BY l.netns, l.local_addr, l.addr, l.port, s.comm, s.pid
),
names AS (
  SELECT
    netns,
    local_addr,
    addr,
    port,
    comm,
    CASE WHEN count(*) = 1 THEN max(pid) END AS pid,
    count(*) AS processes,
    CASE
      WHEN 2 * sum(waiting) > sum(sum(waiting)) OVER (PARTITION BY netns, local_addr, addr, port) THEN 1
      ELSE 0
    END AS has_most,
    sum(CASE WHEN comm IS NULL THEN 0 ELSE 1 END) OVER (PARTITION BY netns, local_addr, addr, port) AS candidates,
    row_number() OVER (
      PARTITION BY netns, local_addr, addr, port
      ORDER BY CASE WHEN comm IS NULL THEN 1 ELSE 0 END, sum(waiting) DESC, sum(rows_held) DESC, comm
    ) AS place
  FROM holders
  GROUP BY netns, local_addr, addr, port, comm
),
named AS (
  SELECT
    l.*,
    1.0 * l.waiting / l.most AS share,
    CASE WHEN n.candidates = 1 OR n.has_most = 1 THEN n.pid END AS pid,
    CASE WHEN n.candidates = 1 OR n.has_most = 1 THEN n.comm END AS comm,
    CASE
      WHEN n.comm IS NULL OR (n.candidates > 1 AND n.has_most = 0) THEN 'an unknown process'
      WHEN n.pid IS NULL THEN concat(n.comm, ' (', n.processes, ' processes)')
      ELSE concat(n.comm, ' (pid ', n.pid, ')')
    END AS who,
    CASE
      WHEN n.candidates = 1 AND n.has_most = 0 AND l.role = 'client' THEN ', the only one seen connected there,'
      ELSE ''
    END AS guess,
    CASE
      WHEN l.addr LIKE '%:%' THEN concat('[', l.addr, ']:', l.port)
      ELSE concat(l.addr, ':', l.port)
    END AS place
  FROM limits AS l
  LEFT JOIN names AS n
    ON n.netns = l.netns
    AND n.local_addr = l.local_addr
    AND n.addr = l.addr
    AND n.port = l.port
    AND n.place = 1
)
SELECT
  'warning' AS severity,
  CAST(CASE WHEN coalesce(n.dropped, 0) > 0 OR n.share > 1 THEN 1.0 ELSE n.share END AS DOUBLE) AS score,
  n.place AS subject,
  n.netns AS netns,
  CAST(n.pid AS INTEGER) AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(CASE WHEN n.dropped > 0 THEN n.dropped ELSE n.waiting END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.dropped > 0 THEN 1 ELSE n.most END AS DOUBLE) AS threshold,
  concat(
    n.who,
    n.guess,
    CASE
      WHEN n.role = 'client' THEN concat(' closes its connections to ', n.place, ' first: ')
      ELSE concat(' closes the connections to its ', n.place, ' first: ')
    END,
    CASE
      WHEN n.limited_by = 'ports'
        THEN printf(
          '%,d of the %,d local ports to it (%.0f %%) lie in TIME-WAIT',
          n.waiting, CAST(n.most AS BIGINT), CAST(100.0 * n.share AS DOUBLE)
        )
      WHEN n.most IS NULL
        THEN printf('it has most of the %,d connections in TIME-WAIT', CAST(n.waiting AS BIGINT))
      ELSE printf(
        'it has most of the %,d connections in TIME-WAIT, of %,d allowed (tcp_max_tw_buckets)',
        CAST(n.waiting AS BIGINT), CAST(n.most AS BIGINT)
      )
    END,
    CASE
      WHEN n.dropped > 0 THEN printf('; the kernel dropped %,d early', CAST(n.dropped AS BIGINT))
      ELSE ''
    END
  ) AS sentence,
  'time_wait' AS report
FROM named AS n
