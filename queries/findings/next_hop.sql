-- title = "Connections without a way to their peer"
-- description = """
-- Connections wait for an answer of their peer, and it is known why: the next hop (a gateway, or the
-- peer itself on the same link) does not answer on the link, so that nothing can be sent to it, or
-- there is no route to the peer any more. The process sees a timeout, or EHOSTUNREACH after seconds.
-- """
-- needs = ["network", "tcp"]
-- uses = ["netns_of", "silent_neighbours", "ways", "who"]
--
-- [params.connections]
-- type = "BIGINT"
-- default = 1
-- doc = "Connections that wait that way: the kernel itself says that it cannot reach the next hop, so one is enough."
WITH lost AS (
  SELECT
    w.*, n.state, n.dev AS link,
    CASE
      WHEN n.state IS NOT NULL THEN concat('next hop ', w.hop)
      WHEN w.kind IS NULL THEN concat('peer ', w.peer_addr)
      ELSE concat(w.destination, '/', w.prefix_len)
    END AS subject,
    greatest(w.since_us, coalesce(n.since_us, w.since_us)) AS lost_us
  FROM ways AS w
  LEFT JOIN silent_neighbours AS n
    ON n.ns = w.ns AND n.ifindex = w.ifindex AND n.address = w.hop AND n.since_us <= w.until_us
    AND coalesce(n.until_us, w.until_us) >= w.since_us
  WHERE w.is_sure
    AND (
      n.state = 'FAILED'
      -- Every answer takes a moment, in which the state is INCOMPLETE.
      OR (w.until_us - w.since_us >= 1000000 AND (n.state = 'INCOMPLETE' OR w.kind IS NULL))
      OR w.kind IN ('blackhole', 'unreachable', 'prohibit')
    )
),
folded AS (
  SELECT
    ns, subject, any_value(link) AS link, any_value(state) AS state, any_value(kind) AS kind, bool_or(by_rule) AS by_rule, any_value(gateway) AS gateway,
    any_value(hop) AS hop, any_value(peer_addr) AS peer_addr, count(DISTINCT peer_addr) AS peers,
    CAST(sum(connections) AS BIGINT) AS connections, max_by(pid, connections) AS pid, max_by(comm, connections) AS comm,
    count(*) AS processes, min(lost_us) AS since_us, max(until_us) AS until_us
  FROM lost
  GROUP BY ns, subject
)
SELECT
  'critical' AS severity, CAST(1.0 AS DOUBLE) AS score, n.subject, netns_of(n.ns) AS netns, n.pid, n.comm,
  make_timestamp(least(n.since_us, n.until_us)) AS since, make_timestamp(n.until_us) AS until,
  CAST(n.connections AS DOUBLE) AS measured, CAST(p.connections AS DOUBLE) AS threshold,
  concat(
    CASE
      WHEN n.state IS NOT NULL AND n.gateway IS NOT NULL THEN concat('gateway ', n.hop, ' does not answer on ', n.link)
      WHEN n.state IS NOT NULL THEN concat(n.hop, ' does not answer on ', n.link, ', the link that it should be on')
      WHEN n.kind IS NULL THEN concat('there is no route to ', n.peer_addr)
      ELSE concat(CASE WHEN n.by_rule THEN 'a routing rule for ' ELSE 'the route to ' END, n.subject, ' is of kind ', n.kind)
    END,
    CASE n.state WHEN 'FAILED' THEN ' (neighbour FAILED)' WHEN 'INCOMPLETE' THEN ' (neighbour INCOMPLETE)' END,
    CASE
      WHEN n.connections = 1 THEN ': a connection of '
      ELSE printf(': %,d connections of ', n.connections)
    END,
    coalesce(who(n.comm, n.pid), 'an unknown process'), CASE WHEN n.processes > 1 THEN printf(' and %,d others', n.processes - 1) END,
    CASE WHEN n.peers = 1 THEN concat(' to ', n.peer_addr) ELSE printf(' to %,d addresses', n.peers) END,
    CASE WHEN n.connections = 1 THEN ' waits' ELSE ' wait' END, ' for an answer'
  ) AS sentence,
  'network' AS report
FROM folded AS n CROSS JOIN params AS p
WHERE n.connections >= p.connections
