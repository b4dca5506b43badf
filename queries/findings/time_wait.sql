-- title = "TIME-WAIT near a limit"
-- description = """
-- The end of a connection that closes first keeps its addresses and ports for a minute in TIME-WAIT.
-- Many of them do no harm until they near a limit: the local ports to one destination, which a
-- client cannot use meanwhile, or net.ipv4.tcp_max_tw_buckets, above which the kernel forgets
-- connections too early. Keep connections instead of opening one for each request, or let the other
-- end close first. Ports that the kernel would take again (net.ipv4.tcp_tw_reuse) do not count.
-- """
-- needs = ["tcp", "settings", "listeners"]
-- uses = [
--   "counter_growth", "doors", "endpoint", "guessed", "netns_of", "port_use", "rise_time",
--   "service_users", "tw_buckets", "unmapped",
-- ]
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
WITH levels AS (
  -- What blocks a port towards one service, and all that lie in a namespace.
  SELECT
    'ports' AS limited_by, ns, local_addr, peer_addr AS addr, peer_port AS port, sample, min(sample_time) AS sample_time,
    CAST(sum(waiting + held - ports) AS BIGINT) AS waiting, most, p.percent AS percent
  FROM port_use CROSS JOIN params AS p
  WHERE waiting > 0
  GROUP BY ns, local_addr, peer_addr, peer_port, sample, most, p.percent
  UNION ALL
  SELECT 'buckets', s.ns, NULL, NULL, NULL, s.sample, min(s.sample_time), count(*), b.most, p.buckets_percent
  FROM sockets AS s LEFT JOIN tw_buckets AS b USING (ns) CROSS JOIN params AS p
  WHERE s.state = 'TIME-WAIT'
  GROUP BY s.ns, s.sample, b.most, p.buckets_percent
),
crowded AS MATERIALIZED (
  SELECT
    limited_by, levels.ns, local_addr, addr, port, max(waiting) AS waiting, most, g.growth AS dropped,
    bool_or(100.0 * waiting >= percent * most) AS is_near,
    -- Dropped, but not seen near the limit: when that began is not known.
    CASE
      WHEN is_near
        THEN rise_time(
          list(waiting ORDER BY sample), list(sample_time ORDER BY sample), min(sample) > min(f.first_sample),
          min(percent) * most / 100.0
        )
      ELSE g.since
    END AS since,
    coalesce(max(sample_time) FILTER (WHERE 100.0 * waiting >= percent * most), g.until) AS until
  FROM levels
  CROSS JOIN (SELECT min(sample) AS first_sample FROM sockets) AS f
  LEFT JOIN (
    SELECT ns, growth, since, until
    FROM counter_growth
    WHERE name = 'TcpExt.TCPTimeWaitOverflow' AND growth > 0
  ) AS g ON g.ns = levels.ns AND limited_by = 'buckets'
  GROUP BY limited_by, levels.ns, local_addr, addr, port, most, g.growth, g.since, g.until
  HAVING is_near OR g.growth > 0
),
limits AS MATERIALIZED (
  SELECT ns, local_addr, addr, port, 'client' AS role, limited_by, waiting, most, dropped, since, until
  FROM crowded
  WHERE limited_by = 'ports'
  UNION ALL
  -- Where most of them are.
  SELECT h.ns, l.local_addr, l.addr, l.port, l.role, h.limited_by, h.waiting, h.most, h.dropped, h.since, h.until
  FROM crowded AS h
  JOIN (
    SELECT
      s.ns, s.local_addr, CASE WHEN d.ns IS NULL THEN 'client' ELSE 'server' END AS role,
      CASE WHEN d.ns IS NULL THEN s.peer_addr ELSE s.local_addr END AS addr,
      CASE WHEN d.ns IS NULL THEN s.peer_port ELSE s.local_port END AS port
    FROM sockets AS s LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
    WHERE s.state = 'TIME-WAIT'
    GROUP BY s.ns, s.local_addr, role, addr, port
    QUALIFY row_number() OVER (PARTITION BY s.ns ORDER BY count(*) DESC, addr, port, s.local_addr) = 1
  ) AS l USING (ns)
  WHERE h.limited_by = 'buckets' AND NOT EXISTS (SELECT 1 FROM crowded AS c WHERE c.limited_by = 'ports' AND c.ns = h.ns)
  -- Never so many; but the planner may know that they are few.
  ORDER BY waiting DESC, ns, local_addr, addr, port
  LIMIT 1000
),
names AS (
  -- Short connections are rarely seen while a process holds them: others to the same place tell.
  SELECT
    ns, local_addr, addr, port, comm, CASE WHEN count(*) = 1 THEN max(pid) END AS pid, list_sort(list(pid) FILTER (WHERE pid IS NOT NULL)) AS pids,
    2 * sum(waiting) > sum(sum(waiting)) OVER place AS has_most, count(comm) OVER place AS candidates
  FROM (
    SELECT
      l.ns, l.local_addr, l.addr, l.port, s.comm, s.pid, count(*) FILTER (WHERE s.state = 'TIME-WAIT') AS waiting, count(*) AS rows_held
    FROM limits AS l
    JOIN sockets AS s
      ON s.ns = l.ns
      AND CASE WHEN l.role = 'client' THEN s.peer_port ELSE s.local_port END = l.port
      AND (
        unmapped(CASE WHEN l.role = 'client' THEN s.peer_addr ELSE s.local_addr END) = unmapped(l.addr)
        OR (l.role = 'server' AND s.state = 'LISTEN')
      )
      AND (l.role = 'server' OR unmapped(s.local_addr) = unmapped(l.local_addr))
    WHERE s.netid = 'tcp'
    GROUP BY l.ns, l.local_addr, l.addr, l.port, s.comm, s.pid
  ) AS holders
  GROUP BY ns, local_addr, addr, port, comm
  WINDOW place AS (PARTITION BY ns, local_addr, addr, port)
  QUALIFY row_number() OVER (
    PARTITION BY ns, local_addr, addr, port ORDER BY comm IS NULL, sum(waiting) DESC, sum(rows_held) DESC, comm
  ) = 1
),
named AS (
  SELECT
    l.*, endpoint(l.addr, l.port) AS place, 1.0 * l.waiting / l.most AS share,
    CASE WHEN n.comm IS NULL THEN u.pid WHEN n.candidates = 1 OR n.has_most THEN n.pid END AS pid,
    CASE WHEN n.comm IS NULL THEN u.comm WHEN n.candidates = 1 OR n.has_most THEN n.comm END AS comm,
    guessed(n.comm, n.pids, n.candidates, n.has_most OR l.role = 'server' AND n.candidates = 1, u.who) AS who
  FROM limits AS l
  LEFT JOIN names AS n USING (ns, local_addr, addr, port)
  LEFT JOIN service_users AS u ON l.role = 'client' AND u.ns = l.ns AND u.peer_addr = unmapped(l.addr) AND u.peer_port = l.port
)
SELECT
  'warning' AS severity, CAST(CASE WHEN n.dropped > 0 THEN 1.0 ELSE least(1.0, n.share) END AS DOUBLE) AS score,
  n.place AS subject, netns_of(n.ns) AS netns, CAST(n.pid AS INTEGER) AS pid, n.comm, n.since, n.until,
  CAST(CASE WHEN n.dropped > 0 THEN n.dropped ELSE n.waiting END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.dropped > 0 THEN 1 ELSE n.most END AS DOUBLE) AS threshold,
  concat(
    n.who,
    CASE
      WHEN n.role = 'client' THEN concat(' closes its connections to ', n.place, ' first: ')
      ELSE concat(' closes the connections to its ', n.place, ' first: ')
    END,
    CASE
      WHEN n.limited_by = 'ports'
        THEN printf(
          '%,d of the %,d local ports to it (%.0f %%) lie in TIME-WAIT', n.waiting, n.most, CAST(100.0 * n.share AS DOUBLE)
        )
      WHEN n.most IS NULL THEN printf('it has most of the %,d connections in TIME-WAIT', n.waiting)
      ELSE printf(
        'it has most of the %,d connections in TIME-WAIT, of %,d allowed (tcp_max_tw_buckets)', n.waiting, n.most
      )
    END,
    CASE WHEN n.dropped > 0 THEN printf('; the kernel dropped %,d early', n.dropped) END
  ) AS sentence,
  'time_wait' AS report
FROM named AS n
