-- title = "Data that the network does not deliver"
-- description = """
-- What a process wrote lies in the send queue, is sent again and again at ever longer intervals, and
-- nothing of it is acknowledged: the peer's host is gone, or something on the way drops the packets
-- (a link, a route, a firewall that forgot the connection, a full accept queue over there). Where small
-- segments pass and full ones never do, it is a black hole of the path MTU: a tunnel, and a firewall
-- that drops the ICMP message which says so. The process cannot know before the
-- kernel gives up, after a quarter of an hour (net.ipv4.tcp_retries2) or its TCP_USER_TIMEOUT.
-- """
-- needs = ["tcp"]
-- lasts = "seconds"
-- uses = ["full_doors", "is_loopback", "netns_of", "pace", "patience", "unmapped", "who"]
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
WITH stalls AS (
  -- What lies there unacknowledged keeps bytes_acked as it is: that tells one standstill from another.
  SELECT
    s.ns, s.cookie, s.bytes_acked, max_by(s.pid, s.sample) AS pid, max_by(s.comm, s.sample) AS comm,
    coalesce(max_by(s.pid, s.sample), -1) AS holder, coalesce(max_by(s.start_us, s.sample), -1) AS started,
    any_value(s.peer_addr) AS peer_addr, any_value(s.peer_port) AS peer_port, any_value(s.peer) AS peer,
    min(s.sample) AS first_sample, max(s.sample) AS last_sample, min(s.sample_time) AS since, max(s.sample_time) AS until,
    max(s.t_us) - min(s.t_us) AS lasted_us, max_by(s.send_q, s.sample) AS waiting, max(greatest(s.retransmits, s.backoff)) AS tries,
    max(s.snd_mss) AS mss, max(s.sacked) AS sacked, max(1.0 * (s.bytes_acked - 1) / nullif(s.delivered - s.sacked - 1, 0)) AS acked_size,
    patience_us
  FROM sockets AS s CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE s.send_q > 0
    AND s.netid = 'tcp'
    AND s.bytes_acked IS NOT NULL
    AND (s.state IN ('ESTAB', 'CLOSE-WAIT') OR (s.state IN ('FIN-WAIT-1', 'CLOSING', 'LAST-ACK') AND s.send_q > 1))
    AND (s.backoff > 0 OR s.retransmits > 0)
    AND coalesce(s.timer, 'on') <> 'persist'
  GROUP BY s.ns, s.cookie, s.bytes_acked, patience_us
  HAVING lasted_us >= patience_us
),
lost AS MATERIALIZED (
  SELECT *
  FROM stalls AS l
  WHERE NOT EXISTS (
    SELECT 1
    FROM full_doors AS d
    WHERE d.addr = unmapped(l.peer_addr) AND d.port = l.peer_port AND (d.ns = l.ns OR NOT is_loopback(d.addr))
  )
),
passing AS (
  -- What others to the same address get through meanwhile, and in segments of what size.
  SELECT ns, peer_addr, count(*) AS others, max(acked_size) AS acked_size
  FROM (
    SELECT
      s.ns, s.peer_addr, s.cookie,
      1.0 * (max(s.bytes_acked) - min(s.bytes_acked)) / nullif(max(s.delivered) - min(s.delivered), 0) AS acked_size
    FROM sockets AS s
    JOIN (
      SELECT ns, peer_addr, min(first_sample) AS first_sample, max(last_sample) AS last_sample
      FROM lost
      GROUP BY ns, peer_addr
    ) AS p ON p.ns = s.ns AND p.peer_addr = s.peer_addr AND s.sample BETWEEN p.first_sample AND p.last_sample
    WHERE s.netid = 'tcp' AND s.state = 'ESTAB'
    GROUP BY s.ns, s.peer_addr, s.cookie
    HAVING max(s.bytes_acked) > min(s.bytes_acked)
  ) AS moving
  GROUP BY ns, peer_addr
),
sized AS (
  SELECT
    l.*,
    -- A full segment waits, a small one has come through (the last one of those, or one of another
    -- connection), and no full one ever has.
    l.waiting >= l.mss
    AND coalesce(l.acked_size, 0) < 0.8 * l.mss
    AND coalesce(p.acked_size, 0) < 0.8 * l.mss
    AND (l.sacked = 1 OR p.acked_size > 0) AS small_pass
  FROM lost AS l LEFT JOIN passing AS p USING (ns, peer_addr)
),
worst AS (
  SELECT
    ns, holder, started, max(pid) AS pid, max(comm) AS comm, max_by(peer, lasted_us) AS peer, min(since) AS since,
    max(until) AS until, max(lasted_us) AS lasted_us, max_by(waiting, lasted_us) AS waiting, max_by(tries, lasted_us) AS tries,
    CASE WHEN max_by(small_pass, lasted_us) THEN max_by(mss, lasted_us) END AS never_pass,
    max_by(last_sample, lasted_us) AS last_sample, any_value(patience_us) AS patience_us
  FROM sized
  GROUP BY ns, holder, started
),
named AS (
  SELECT
    w.*, a.connections,
    -- A stalled connection may have lost its owner by then: it is closed.
    greatest(a.connections, h.connections) AS of_connections, 1.0 * a.connections / of_connections AS share
  FROM worst AS w
  JOIN (
    SELECT ns, holder, started, count(*) AS connections
    FROM worst AS w JOIN lost AS s USING (ns, holder, started)
    WHERE w.last_sample BETWEEN s.first_sample AND s.last_sample
    GROUP BY ns, holder, started
  ) AS a USING (ns, holder, started)
  LEFT JOIN (
    SELECT w.ns, w.holder, w.started, count(*) AS connections
    FROM sockets AS s
    JOIN worst AS w
      ON w.ns = s.ns AND w.last_sample = s.sample AND w.holder = coalesce(s.pid, -1) AND w.started = coalesce(s.start_us, -1)
    WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT', 'SYN-RECV')
    GROUP BY w.ns, w.holder, w.started
  ) AS h USING (ns, holder, started)
)
SELECT
  CASE WHEN n.comm IS NOT NULL AND 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score, n.peer AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured, CAST(n.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    'the network does not deliver what ', coalesce(who(n.comm, n.pid), 'an unknown process'), ' sends to ', n.peer,
    CASE
      WHEN n.waiting >= 1000 THEN printf(': %,.1f kB', CAST(n.waiting / 1000.0 AS DOUBLE))
      ELSE printf(': %d bytes', CAST(n.waiting AS BIGINT))
    END,
    printf(
      ' waited and nothing was acknowledged for %.0f s, retransmitted %d times in vain',
      CAST(n.lasted_us / 1000000.0 AS DOUBLE), CAST(n.tries AS BIGINT)
    ),
    CASE
      WHEN n.of_connections > 1 THEN printf('; %,d of its %,d connections stall', n.connections, n.of_connections)
    END,
    CASE
      WHEN n.never_pass > 0
        THEN printf(
          '; small segments pass and full ones (%,d bytes) never do: the MTU is smaller on the way, and nobody says so',
          n.never_pass
        )
    END
  ) AS sentence,
  'stalls' AS report
FROM named AS n CROSS JOIN params AS p
