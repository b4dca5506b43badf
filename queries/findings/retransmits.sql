-- title = "Connections that lose much on the way"
-- description = """
-- A noticeable share of what a process sends to a peer has to be sent again: packets are lost on the
-- way (a full queue, a bad link, a policer), or the peer's host drops them. TCP slows down with each
-- loss, so throughput falls and delays grow. Retransmitted SYNs carry no data and do not count.
-- """
-- needs = ["tcp"]
-- uses = ["full_doors", "is_loopback", "losses", "netns_of", "unmapped", "who"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Share of the bytes sent that were sent again. Up to 1 % is usual on the Internet and hardly felt; at 3 % loss a connection with 50 ms round trip gets no more than some 2 Mbit/s with loss-based congestion control."
--
-- [params.segments]
-- type = "BIGINT"
-- default = 100
-- doc = "Segments sent again: of fewer a share says nothing, and a tail loss probe or two are harmless."
WITH lossy AS MATERIALIZED (
  SELECT
    l.ns, l.peer_addr, l.pid, l.start_us, max(l.comm) AS comm, sum(l.retransmitted) AS segments,
    sum(l.bytes_retrans) AS bytes_again, sum(l.bytes_sent) AS bytes_sent,
    count(*) FILTER (WHERE l.retransmitted > 0) AS connections, 1.0 * sum(l.bytes_retrans) / sum(l.bytes_sent) AS share
  FROM losses AS l
  ANTI JOIN full_doors AS d
    ON d.addr = unmapped(l.peer_addr) AND d.port = l.peer_port AND (d.ns = l.ns OR NOT is_loopback(d.addr))
  WHERE l.bytes_sent > 0
  GROUP BY l.ns, l.peer_addr, l.pid, l.start_us
  HAVING sum(l.retransmitted) >= (SELECT segments FROM params)
    AND 100.0 * sum(l.bytes_retrans) >= (SELECT percent FROM params) * sum(l.bytes_sent)
),
times AS (
  SELECT l.ns, l.peer_addr, coalesce(l.pid, -1) AS holder, min(s.sample_time) AS since, max(s.sample_time) AS until
  FROM lossy AS l JOIN sockets AS s USING (ns, peer_addr)
  WHERE coalesce(s.pid, -1) = coalesce(l.pid, -1) AND s.total_retrans > 0
  GROUP BY l.ns, l.peer_addr, coalesce(l.pid, -1)
)
SELECT
  'warning' AS severity, CAST(l.share AS DOUBLE) AS score, l.peer_addr AS subject, netns_of(l.ns) AS netns, l.pid, l.comm,
  t.since, t.until, CAST(100.0 * l.share AS DOUBLE) AS measured, CAST(p.percent AS DOUBLE) AS threshold,
  concat(
    'much of what ', coalesce(who(l.comm, l.pid), 'an unknown process'), ' sends to ', l.peer_addr,
    printf(
      ' is lost on the way: %.1f %% of %,.1f kB had to be sent again, %,d segments on %,d connection%s',
      CAST(100.0 * l.share AS DOUBLE), CAST(l.bytes_sent / 1000.0 AS DOUBLE), CAST(l.segments AS BIGINT), l.connections,
      CASE WHEN l.connections = 1 THEN '' ELSE 's' END
    )
  ) AS sentence,
  'retransmits' AS report
FROM lossy AS l
LEFT JOIN times AS t ON t.ns = l.ns AND t.peer_addr = l.peer_addr AND t.holder = coalesce(l.pid, -1)
CROSS JOIN params AS p
