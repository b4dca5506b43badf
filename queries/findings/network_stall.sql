-- title = "Data that the network does not deliver"
-- description = """
-- What a process wrote lies in the send queue, is sent again and again at ever longer intervals, and
-- nothing of it is acknowledged: the peer's host is gone, or something on the way drops the packets
-- (a link, a route, a firewall that forgot the connection, a full accept queue over there). The process cannot know before the
-- kernel gives up, after a quarter of an hour (net.ipv4.tcp_retries2) or its TCP_USER_TIMEOUT.
-- """
-- needs = ["tcp"]
-- uses = ["pace"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds without any acknowledgement: by then several retransmissions have failed."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the process's connections that stall from which it is critical. Of many clients of a public server some always vanish."
WITH pace AS (
  -- So long must it last: the parameters' seconds, or their number of intervals if that is longer.
  SELECT
    CASE
      WHEN p.intervals * i.interval_us > 1000000.0 * p.seconds THEN p.intervals * i.interval_us
      ELSE 1000000.0 * p.seconds
    END AS patience_us
  FROM (
    SELECT coalesce(1.0 * (max(t_us) - min(t_us)) / nullif(max(sample) - min(sample), 0), 0.0) AS interval_us
    FROM sockets
  ) AS i
  CROSS JOIN params AS p
),
lost AS (
  -- What lies there unacknowledged keeps bytes_acked as it is: that tells one standstill from another.
  SELECT
    netns,
    cookie,
    bytes_acked,
    max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us,
    max_by(comm, sample) AS comm,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    min(sample) AS first_sample,
    max(sample) AS last_sample,
    min(sample_time) AS since,
    max(sample_time) AS until,
    max(t_us) - min(t_us) AS lasted_us,
    max_by(send_q, sample) AS waiting,
    max(CASE WHEN retransmits > backoff OR backoff IS NULL THEN retransmits ELSE backoff END) AS tries
  FROM sockets
  WHERE send_q > 0
    AND netid = 'tcp'
    AND bytes_acked IS NOT NULL
    AND (state IN ('ESTAB', 'CLOSE-WAIT') OR (state IN ('FIN-WAIT-1', 'CLOSING', 'LAST-ACK') AND send_q > 1))
    AND (backoff > 0 OR retransmits > 0)
    AND coalesce(timer, 'on') <> 'persist'
  GROUP BY netns, cookie, bytes_acked
),
overflowing AS (
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
stalls AS (
  SELECT l.*, coalesce(l.pid, -1) AS holder, coalesce(l.start_us, -1) AS started
  FROM lost AS l
  CROSS JOIN pace
  WHERE l.lasted_us >= pace.patience_us
    AND NOT EXISTS (
      SELECT 1
      FROM own_doors AS d
      WHERE d.addr = replace(l.peer_addr, '::ffff:', '')
        AND d.port = l.peer_port
        -- Every network namespace has a loopback of its own.
        AND (d.netns = l.netns OR (d.addr NOT LIKE '127.%' AND d.addr <> '::1'))
    )
),
worst AS (
  SELECT
    netns,
    holder,
    started,
    max(pid) AS pid,
    max(comm) AS comm,
    max_by(peer_addr, lasted_us) AS peer_addr,
    max_by(peer_port, lasted_us) AS peer_port,
    min(since) AS since,
    max(until) AS until,
    max(lasted_us) AS lasted_us,
    max_by(waiting, lasted_us) AS waiting,
    max_by(tries, lasted_us) AS tries,
    max_by(last_sample, lasted_us) AS last_sample
  FROM stalls
  GROUP BY netns, holder, started
),
affected AS (
  SELECT w.netns, w.holder, w.started, count(*) AS connections
  FROM worst AS w
  JOIN stalls AS s
    ON s.netns = w.netns
    AND s.holder = w.holder
    AND s.started = w.started
    AND w.last_sample BETWEEN s.first_sample AND s.last_sample
  GROUP BY w.netns, w.holder, w.started
),
held AS (
  SELECT
    w.netns,
    w.holder,
    w.started,
    count(*) AS connections
  FROM sockets AS s
  JOIN worst AS w
    ON w.netns = s.netns
    AND w.last_sample = s.sample
    AND w.holder = coalesce(s.pid, -1)
    AND w.started = coalesce(s.start_us, -1)
  WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT', 'SYN-RECV')
  GROUP BY w.netns, w.holder, w.started
),
named AS (
  SELECT
    w.*,
    a.connections,
    -- A stalled connection may have lost its owner by then: it is closed.
    CASE WHEN a.connections < h.connections THEN h.connections ELSE a.connections END AS of_connections,
    CASE WHEN a.connections < h.connections THEN 1.0 * a.connections / h.connections ELSE 1.0 END AS share,
    CASE
      WHEN w.peer_addr LIKE '%:%' THEN concat('[', w.peer_addr, ']:', w.peer_port)
      ELSE concat(w.peer_addr, ':', w.peer_port)
    END AS peer
  FROM worst AS w
  JOIN affected AS a
    ON a.netns = w.netns
    AND a.holder = w.holder
    AND a.started = w.started
  LEFT JOIN held AS h
    ON h.netns = w.netns
    AND h.holder = w.holder
    AND h.started = w.started
)
SELECT
  CASE
    WHEN n.comm IS NOT NULL AND 100.0 * n.share >= p.critical_percent THEN 'critical'
    ELSE 'warning'
  END AS severity,
  CAST(n.share AS DOUBLE) AS score,
  n.peer AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured,
  CAST(pace.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    'the network does not deliver what ',
    CASE WHEN n.comm IS NOT NULL THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    ' sends to ',
    n.peer,
    CASE
      WHEN n.waiting >= 1000 THEN printf(': %,.1f kB', CAST(n.waiting / 1000.0 AS DOUBLE))
      ELSE printf(': %d bytes', CAST(n.waiting AS BIGINT))
    END,
    printf(
      ' waited and nothing was acknowledged for %.0f s, retransmitted %d times in vain',
      CAST(n.lasted_us / 1000000.0 AS DOUBLE), CAST(n.tries AS BIGINT)
    ),
    CASE
      WHEN n.of_connections > 1
        THEN printf(
          '; %,d of its %,d connections stall',
          CAST(n.connections AS BIGINT), CAST(n.of_connections AS BIGINT)
        )
      ELSE ''
    END
  ) AS sentence,
  'stalls' AS report
FROM named AS n
CROSS JOIN params AS p
CROSS JOIN pace
