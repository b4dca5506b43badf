-- title = "Local ports that run out"
-- description = """
-- Connections from one local address to one destination need a local port each, and nearly all of
-- the range (net.ipv4.ip_local_port_range less the reserved ones) are taken: soon, or already,
-- connect() fails with EADDRNOTAVAIL. Keep and reuse connections; if most of them lie in TIME-WAIT,
-- let the other end close first, or use a wider range or more addresses. A port in TIME-WAIT that
-- the kernel would take again (net.ipv4.tcp_tw_reuse) does not count. A socket that is bound before it
-- connects takes its port for all destinations: set IP_BIND_ADDRESS_NO_PORT, or do not bind. UDP ports
-- are one range for all addresses and destinations: close the sockets, or use one for all questions.
-- """
-- needs = ["tcp", "settings", "listeners"]
-- uses = ["guessed", "netns_of", "port_claims", "rise_time", "service_users"]
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
WITH used AS MATERIALIZED (
  SELECT * FROM port_claims
),
crowded AS MATERIALIZED (
  SELECT
    ns, local_addr, peer_addr, peer_port, any_value(destination) AS destination, max(destinations) AS destinations, most,
    max(held) AS held, max_by(waiting, held) AS waiting,
    rise_time(
      list(held ORDER BY sample), list(sample_time ORDER BY sample), min(sample) > min(f.first_sample), min(p.percent) * most / 100.0
    ) AS since,
    max(sample_time) FILTER (WHERE 100.0 * held >= p.percent * most) AS until
  FROM (
    SELECT
      ns, local_addr, peer_addr, peer_port, any_value(destination) AS destination, max(destinations) AS destinations, sample, most,
      min(sample_time) AS sample_time,
      CAST(sum(held) AS BIGINT) AS held, CAST(sum(waiting + held - ports) AS BIGINT) AS waiting
    FROM used
    GROUP BY ns, local_addr, peer_addr, peer_port, sample, most
  ) AS levels
  CROSS JOIN params AS p
  CROSS JOIN (SELECT min(sample) AS first_sample FROM sockets) AS f
  GROUP BY ns, local_addr, peer_addr, peer_port, most
  HAVING bool_or(100.0 * held >= p.percent * most)
),
names AS (
  SELECT
    ns, local_addr, peer_addr, peer_port, comm, list_sort(list(DISTINCT pid) FILTER (WHERE pid IS NOT NULL)) AS pids,
    CASE WHEN count(DISTINCT coalesce(pid, -1)) = 1 THEN max(pid) END AS pid,
    2 * sum(held) > sum(sum(held)) OVER destination AS has_most, count(comm) OVER destination AS candidates
  FROM used SEMI JOIN crowded USING (ns, local_addr, peer_addr, peer_port)
  GROUP BY ns, local_addr, peer_addr, peer_port, comm
  WINDOW destination AS (PARTITION BY ns, local_addr, peer_addr, peer_port)
  QUALIFY row_number() OVER (
    PARTITION BY ns, local_addr, peer_addr, peer_port ORDER BY comm IS NULL, sum(held) DESC, comm
  ) = 1
),
named AS (
  SELECT
    c.*, 1.0 * c.held / c.most AS share,
    CASE
      WHEN c.local_addr = '*' THEN concat('UDP ports of network namespace ', netns_of(c.ns))
      WHEN c.peer_port = 0 THEN c.local_addr
      ELSE c.destination
    END AS subject,
    CASE WHEN n.comm IS NULL THEN u.pid WHEN n.candidates = 1 OR n.has_most THEN n.pid END AS pid,
    CASE WHEN n.comm IS NULL THEN u.comm WHEN n.candidates = 1 OR n.has_most THEN n.comm END AS comm,
    guessed(n.comm, n.pids, n.candidates, n.has_most, u.who) AS who
  FROM crowded AS c
  LEFT JOIN names AS n USING (ns, local_addr, peer_addr, peer_port)
  LEFT JOIN service_users AS u USING (ns, peer_addr, peer_port)
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(least(1.0, n.share) AS DOUBLE) AS score, n.subject, netns_of(n.ns) AS netns, CAST(n.pid AS INTEGER) AS pid,
  n.comm, n.since, n.until, CAST(n.held AS DOUBLE) AS measured, CAST(n.most AS DOUBLE) AS threshold,
  concat(
    n.who,
    CASE
      WHEN n.local_addr = '*' THEN ' uses up the local UDP ports'
      WHEN n.peer_port = 0 THEN concat(' uses up the local ports of ', n.local_addr)
      ELSE concat(' uses up the local ports to ', n.destination)
    END,
    printf(': %,d of %,d (%.0f %%)', n.held, n.most, CAST(100.0 * n.share AS DOUBLE)),
    CASE
      WHEN n.local_addr = '*' THEN ', '
      WHEN n.peer_port = 0 THEN printf(' to %,d destinations together, as it binds before it connects, ', n.destinations)
      ELSE concat(' from ', n.local_addr, ', ')
    END,
    CASE WHEN n.waiting > 0 THEN printf('%,d of them in TIME-WAIT, ', n.waiting) END,
    CASE
      WHEN n.held < n.most THEN printf('left: %,d', n.most - n.held)
      WHEN n.local_addr = '*' THEN 'none is left: bind() fails with EADDRINUSE, connect() with EAGAIN'
      WHEN n.peer_port = 0 THEN 'none is left: bind() fails with EADDRINUSE'
      ELSE 'none is left: connect() fails with EADDRNOTAVAIL'
    END
  ) AS sentence,
  'port_exhaustion' AS report
FROM named AS n CROSS JOIN params AS p
