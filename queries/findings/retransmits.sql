-- title = "Connections that lose much on the way"
-- description = """
-- A noticeable share of what a process sends to a peer has to be sent again: packets are lost on the
-- way (a full queue, a bad link, a policer), or the peer's host drops them. TCP slows down with each
-- loss, so throughput falls and delays grow. Retransmitted SYNs carry no data and do not count.
-- """
-- needs = ["tcp"]
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
WITH overflowing AS (
  -- Also those that --where did not choose.
  SELECT r.netns, any_value(r.local_port) AS local_port
  FROM raw.sockets AS r
  CROSS JOIN params AS p
  WHERE r.state = 'LISTEN'
    AND r.netid = 'tcp'
    AND (p.from_us IS NULL OR r.sample_time >= make_timestamp(p.from_us))
    AND (p.to_us IS NULL OR r.sample_time < make_timestamp(p.to_us))
  GROUP BY r.netns, r.cookie
  HAVING max(CASE WHEN r.recv_q > r.send_q THEN 1 ELSE 0 END) = 1 OR max(r.drops) > min(r.drops)
  -- Never so many; but the planner may know that they are few.
  ORDER BY r.netns, r.cookie
  LIMIT 1000
),
own_doors AS (
  -- What goes to a full accept queue of this host is dropped there: accept_queue tells.
  SELECT DISTINCT s.netns, replace(s.local_addr, '::ffff:', '') AS addr, s.local_port AS port
  FROM raw.sockets AS s
  JOIN overflowing AS o
    ON o.netns = s.netns
    AND o.local_port = s.local_port
  WHERE s.netid = 'tcp'
),
seen AS (
  -- Totals of a connection's life: what was there before --from began is taken off.
  SELECT
    netns,
    cookie,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us,
    max_by(comm, sample) AS comm,
    min(sample) AS first_sample,
    max(total_retrans) AS segments,
    max(bytes_retrans) AS bytes_again,
    max(bytes_sent) AS bytes_sent,
    min(total_retrans) AS segments_before,
    min(bytes_retrans) AS bytes_again_before,
    min(bytes_sent) AS bytes_sent_before
  FROM sockets
  WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'TIME-WAIT') AND bytes_sent > 0
  GROUP BY netns, cookie
),
starts AS (
  SELECT netns, min(sample) AS first_sample
  FROM sockets
  GROUP BY netns
),
lives AS (
  SELECT
    s.netns,
    s.peer_addr,
    s.peer_port,
    s.pid,
    s.start_us,
    s.comm,
    -- A connection that came while it was recorded began at 0.
    s.segments - CASE WHEN s.first_sample = b.first_sample THEN s.segments_before ELSE 0 END AS segments,
    s.bytes_again - CASE WHEN s.first_sample = b.first_sample THEN s.bytes_again_before ELSE 0 END AS bytes_again,
    s.bytes_sent - CASE WHEN s.first_sample = b.first_sample THEN s.bytes_sent_before ELSE 0 END AS bytes_sent
  FROM seen AS s
  JOIN starts AS b
    ON b.netns = s.netns
  UNION ALL
  SELECT
    netns,
    peer_addr,
    peer_port,
    pid,
    start_us,
    comm,
    total_retrans AS segments,
    bytes_retrans AS bytes_again,
    bytes_sent
  FROM closes
  WHERE connection AND NOT sampled AND peer_port > 0 AND bytes_sent > 0
),
paths AS (
  SELECT
    netns,
    peer_addr,
    pid,
    start_us,
    max(comm) AS comm,
    sum(segments) AS segments,
    sum(bytes_again) AS bytes_again,
    sum(bytes_sent) AS bytes_sent,
    count(CASE WHEN segments > 0 THEN 1 END) AS connections
  FROM lives AS l
  WHERE NOT EXISTS (
    SELECT 1
    FROM own_doors AS d
    WHERE d.addr = replace(l.peer_addr, '::ffff:', '')
      AND d.port = l.peer_port
      -- Every network namespace has a loopback of its own.
      AND (d.netns = l.netns OR (d.addr NOT LIKE '127.%' AND d.addr <> '::1'))
  )
  GROUP BY netns, peer_addr, pid, start_us
),
lossy AS (
  SELECT x.*, 1.0 * x.bytes_again / x.bytes_sent AS share
  FROM paths AS x
  CROSS JOIN params AS p
  WHERE x.segments >= p.segments AND 100.0 * x.bytes_again >= p.percent * x.bytes_sent
),
times AS (
  SELECT
    l.netns,
    l.peer_addr,
    coalesce(l.pid, -1) AS holder,
    min(s.sample_time) AS since,
    max(s.sample_time) AS until
  FROM lossy AS l
  JOIN sockets AS s
    ON s.netns = l.netns
    AND s.peer_addr = l.peer_addr
    AND coalesce(s.pid, -1) = coalesce(l.pid, -1)
  WHERE s.total_retrans > 0
  GROUP BY l.netns, l.peer_addr, coalesce(l.pid, -1)
)
SELECT
  'warning' AS severity,
  CAST(l.share AS DOUBLE) AS score,
  l.peer_addr AS subject,
  l.netns AS netns,
  l.pid AS pid,
  l.comm AS comm,
  t.since AS since,
  t.until AS until,
  CAST(100.0 * l.share AS DOUBLE) AS measured,
  CAST(p.percent AS DOUBLE) AS threshold,
  concat(
    'much of what ',
    CASE WHEN l.comm IS NOT NULL THEN concat(l.comm, ' (pid ', l.pid, ')') ELSE 'an unknown process' END,
    ' sends to ',
    l.peer_addr,
    printf(
      ' is lost on the way: %.1f %% of %,.1f kB had to be sent again, %,d segments on %,d connection%s',
      CAST(100.0 * l.share AS DOUBLE), CAST(l.bytes_sent / 1000.0 AS DOUBLE), CAST(l.segments AS BIGINT), l.connections,
      CASE WHEN l.connections = 1 THEN '' ELSE 's' END
    )
  ) AS sentence,
  'retransmits' AS report
FROM lossy AS l
LEFT JOIN times AS t
  ON t.netns = l.netns
  AND t.peer_addr = l.peer_addr
  AND t.holder = coalesce(l.pid, -1)
CROSS JOIN params AS p
