-- title = "Retransmissions: packets lost, or sent again in vain"
-- description = """
-- A noticeable share of what a process sends to a peer has to be sent again: packets are lost on the
-- way (a full queue, a bad link, a policer), or the peer's host drops them. TCP slows down with each
-- loss, so throughput falls and delays grow. What the peer reports to have had already (D-SACK) was
-- not lost: it was sent again because packets overtook each other or an answer came late, and is told
-- as that. Retransmitted SYNs carry no data and do not count.
-- """
-- needs = ["tcp", "tcp_info"]
-- uses = ["full_doors", "goes_to_door", "losses", "netns_of", "who"]
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
WITH repeated AS (
  SELECT
    l.ns, l.peer_addr, l.pid, l.start_us, max(l.comm) AS comm, sum(l.retransmitted) AS segments, sum(l.lost) AS lost,
    sum(l.bytes_retrans) AS bytes_again, sum(l.bytes_lost) AS bytes_lost, sum(l.bytes_sent) AS bytes_sent,
    sum(l.reord_seen) AS reordered, count(*) FILTER (WHERE l.retransmitted > 0) AS connections
  FROM losses AS l
  ANTI JOIN full_doors AS d
    ON goes_to_door(l.ns, l.local_addr, l.peer_addr, l.peer_port, d.ns, d.addr, d.port, d.client)
  WHERE l.bytes_sent > 0
  GROUP BY l.ns, l.peer_addr, l.pid, l.start_us
),
judged AS MATERIALIZED (
  SELECT
    r.*, r.lost >= p.segments AND 100.0 * r.bytes_lost >= p.percent * r.bytes_sent AS is_lossy,
    1.0 * CASE WHEN is_lossy THEN r.bytes_lost ELSE r.bytes_again - r.bytes_lost END / r.bytes_sent AS share,
    CASE WHEN is_lossy THEN r.lost ELSE r.segments - r.lost END AS counted, p.percent
  FROM repeated AS r CROSS JOIN params AS p
  WHERE is_lossy OR (counted >= p.segments AND 100.0 * share >= p.percent)
),
times AS (
  SELECT j.ns, j.peer_addr, coalesce(j.pid, -1) AS holder, min(s.sample_time) AS since, max(s.sample_time) AS until
  FROM judged AS j JOIN sockets AS s USING (ns, peer_addr)
  WHERE coalesce(s.pid, -1) = coalesce(j.pid, -1) AND s.total_retrans > 0
  GROUP BY j.ns, j.peer_addr, coalesce(j.pid, -1)
)
SELECT
  CASE WHEN j.is_lossy THEN 'warning' ELSE 'note' END AS severity, CAST(j.share AS DOUBLE) AS score, j.peer_addr AS subject,
  netns_of(j.ns) AS netns, j.pid, j.comm, t.since, t.until, CAST(100.0 * j.share AS DOUBLE) AS measured,
  CAST(j.percent AS DOUBLE) AS threshold,
  concat(
    'much of what ', coalesce(who(j.comm, j.pid), 'an unknown process'), ' sends to ', j.peer_addr,
    CASE WHEN j.is_lossy THEN ' is lost on the way: ' ELSE ' is sent again though it had arrived: ' END,
    printf(
      '%.1f %% of %,.1f kB%s, %,d segments on %,d connection%s',
      CAST(100.0 * j.share AS DOUBLE), CAST(j.bytes_sent / 1000.0 AS DOUBLE),
      CASE WHEN j.is_lossy THEN ' had to be sent again' ELSE '' END, CAST(j.counted AS BIGINT), j.connections,
      CASE WHEN j.connections = 1 THEN '' ELSE 's' END
    ),
    CASE WHEN j.is_lossy AND j.segments > j.lost THEN printf(', beside %,d that had arrived', CAST(j.segments - j.lost AS BIGINT)) END,
    CASE WHEN j.reordered > 0 THEN printf('; packets overtook each other %,d times', CAST(j.reordered AS BIGINT)) END
  ) AS sentence,
  'retransmits' AS report
FROM judged AS j
LEFT JOIN times AS t ON t.ns = j.ns AND t.peer_addr = j.peer_addr AND t.holder = coalesce(j.pid, -1)
