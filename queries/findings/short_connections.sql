-- title = "Connections opened again and again"
-- description = """
-- A process opens a connection for nearly every request, at a rate that a minute of TIME-WAIT would
-- turn into a large part of the local ports: each costs a round trip or more, CPU at both ends, and
-- at a little more load ports or TIME-WAIT run out. Keep connections (keep-alive, a pool). Nearly
-- all of them live between two samples: they are known by the kernel's announcement of their end.
-- """
-- needs = ["closes", "settings", "listeners"]
-- lasts = 10.0
-- uses = [
--   "doors", "endpoint", "got_no_answer", "guessed", "netns_of", "port_ranges", "service_users", "tw_buckets", "unmapped", "who",
-- ]
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
WITH ends AS (
  SELECT
    c.ns, c.t_us, c.time, CASE WHEN d.ns IS NULL THEN c.peer_addr ELSE c.local_addr END AS addr,
    CASE WHEN d.ns IS NULL THEN c.peer_port ELSE c.local_port END AS port,
    CASE WHEN d.ns IS NULL THEN 'client' ELSE 'server' END AS role, c.comm, c.pid, c.bytes_sent, c.bytes_received
  FROM closes AS c LEFT JOIN doors AS d ON d.ns = c.ns AND d.local_port = c.local_port
  -- What reset itself has lost its peer.
  WHERE c.connection AND NOT c.sampled AND (d.ns IS NOT NULL OR c.peer_port > 0)
),
seconds AS (
  SELECT
    ns, addr, port, role, CAST(floor(t_us / 1000000.0) AS BIGINT) AS second, count(*) AS closed,
    count(*) FILTER (WHERE got_no_answer(role, bytes_sent, bytes_received)) AS unanswered, min(time) AS since, max(time) AS until,
    sum(count(*)) OVER (PARTITION BY ns, addr, port, role ORDER BY second RANGE BETWEEN 9 PRECEDING AND CURRENT ROW) AS closed_in_10_s
  FROM ends
  GROUP BY ns, addr, port, role, second
),
churning AS (
  SELECT
    s.ns, s.addr, s.port, s.role, max(s.closed_in_10_s) / 10.0 AS rate, sum(s.closed) AS closed, sum(s.unanswered) AS unanswered, min(s.since) AS since,
    max(s.until) AS until, CASE WHEN b.most < g.ports THEN b.most ELSE g.ports END AS room, 60.0 * rate / room AS share,
    CASE WHEN b.most < g.ports THEN 'TIME-WAIT sockets allowed' ELSE 'local ports' END AS of_what
  FROM seconds AS s
  JOIN port_ranges AS g USING (ns)
  LEFT JOIN tw_buckets AS b USING (ns)
  -- Where none may be in TIME-WAIT none keeps its port; and a range may be reserved wholly.
  WHERE g.ports > 0 AND coalesce(b.most, 1) > 0
  GROUP BY s.ns, s.addr, s.port, s.role, b.most, g.ports
  HAVING 100.0 * share >= (SELECT percent FROM params)
  QUALIFY row_number() OVER (PARTITION BY s.ns, s.addr, s.port ORDER BY rate DESC, s.role) = 1
  -- Never so many; but the planner may know that they are few.
  ORDER BY rate DESC, s.ns, s.addr, s.port
  LIMIT 1000
),
shown AS (
  SELECT ns, addr, port, role, cookie, seen_as, max(comm) AS comm, max(pid) AS pid
  FROM (
    SELECT c.ns, c.addr, c.port, c.role, s.cookie, 'client' AS seen_as, s.comm, s.pid
    FROM churning AS c JOIN sockets AS s ON s.ns = c.ns AND s.peer_port = c.port AND s.peer_addr = c.addr
    WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT')
    UNION ALL
    SELECT c.ns, c.addr, c.port, c.role, s.cookie, 'server' AS seen_as, s.comm, s.pid
    FROM churning AS c JOIN sockets AS s ON s.ns = c.ns AND s.local_port = c.port AND s.local_addr = c.addr
    WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT')
  ) AS of_both_ends
  GROUP BY ns, addr, port, role, cookie, seen_as
),
names AS (
  SELECT
    ns, addr, port, comm, CASE WHEN count(*) = 1 THEN max(pid) END AS pid, list_sort(list(pid) FILTER (WHERE pid IS NOT NULL)) AS pids, sum(sockets) AS sockets,
    count(*) OVER (PARTITION BY ns, addr, port) AS candidates
  FROM (
    SELECT ns, addr, port, comm, pid, count(*) AS sockets
    FROM (
      SELECT ns, addr, port, comm, pid FROM shown WHERE seen_as = 'client'
      UNION ALL
      SELECT ns, addr, port, comm, pid FROM ends WHERE role = 'client'
    ) AS both_known
    WHERE comm IS NOT NULL
    GROUP BY ns, addr, port, comm, pid
  ) AS clients
  GROUP BY ns, addr, port, comm
  QUALIFY row_number() OVER (PARTITION BY ns, addr, port ORDER BY sum(sockets) DESC, comm) = 1
),
named AS (
  SELECT
    c.*, coalesce(k.kept, 0) AS kept, endpoint(c.addr, c.port) AS destination, who(d.comm, d.pid) AS server, d.comm AS server_comm,
    d.pid AS server_pid, coalesce(2 * n.sockets > c.closed, false) AS has_most,
    -- Of several clients the one of which most is known, if that is most of what there was.
    CASE WHEN n.comm IS NULL THEN u.comm WHEN n.candidates = 1 OR has_most THEN n.comm END AS client_comm,
    CASE WHEN n.comm IS NULL THEN u.pid WHEN n.candidates = 1 OR has_most THEN n.pid END AS client_pid,
    guessed(n.comm, n.pids, n.candidates, has_most, u.who) AS client
  FROM churning AS c
  LEFT JOIN (SELECT ns, addr, port, count(*) AS kept FROM shown WHERE seen_as = role GROUP BY ns, addr, port) AS k
    USING (ns, addr, port)
  LEFT JOIN names AS n USING (ns, addr, port)
  LEFT JOIN doors AS d ON d.ns = c.ns AND d.local_port = c.port
  LEFT JOIN service_users AS u ON u.ns = c.ns AND u.peer_addr = unmapped(c.addr) AND u.peer_port = c.port
)
SELECT
  'warning' AS severity,
  -- No limit is reached yet: behind what has reached one.
  CAST(0.5 * least(1.0, n.share) AS DOUBLE) AS score, n.destination AS subject, netns_of(n.ns) AS netns,
  CAST(CASE WHEN n.client_comm IS NOT NULL THEN n.client_pid ELSE n.server_pid END AS INTEGER) AS pid,
  coalesce(n.client_comm, n.server_comm) AS comm, n.since, n.until,
  CAST(n.rate AS DOUBLE) AS measured, CAST(p.percent * n.room / 6000.0 AS DOUBLE) AS threshold,
  concat(
    n.client, printf(' opens %,.0f connections a second to ', CAST(n.rate AS DOUBLE)), n.destination, ' of ' || n.server,
    printf(
      ': %,d of %,d ended before a sample could show them; a minute of it is ',
      CAST(n.closed AS BIGINT), CAST(n.closed + n.kept AS BIGINT)
    ),
    CASE
      WHEN n.share >= 2 THEN printf('%,.1f times', CAST(n.share AS DOUBLE))
      ELSE printf('%.0f %% of', CAST(100.0 * n.share AS DOUBLE))
    END,
    printf(' the %,d ', CAST(n.room AS BIGINT)), n.of_what,
    CASE
      WHEN 2 * n.unanswered > n.closed
        THEN printf('; %,d of those that ended got not a byte of answer, which no keep-alive mends', CAST(n.unanswered AS BIGINT))
    END
  ) AS sentence,
  'short_lived' AS report
FROM named AS n CROSS JOIN params AS p
WHERE 100.0 * n.closed >= p.short_percent * (n.closed + n.kept)
