-- title = "Data that the network does not deliver"
-- description = """
-- What a process wrote lies in the send queue, is sent again and again at ever longer intervals, and
-- nothing of it is acknowledged: the peer's host is gone, or something on the way drops the packets
-- (a link, a route, a firewall that forgot the connection, a full accept queue over there). Where small
-- segments pass and full ones never do, it is a black hole of the path MTU: a tunnel, and a firewall
-- that drops the ICMP message which says so. The process cannot know before the
-- kernel gives up, after a quarter of an hour (net.ipv4.tcp_retries2) or its TCP_USER_TIMEOUT.
-- """
-- needs = ["tcp", "tcp_info"]
-- lasts = "seconds"
-- uses = ["full_doors", "goes_to_door", "netns_of", "pace", "patience", "undelivered", "who"]
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
WITH lost AS MATERIALIZED (
  SELECT
    l.*, coalesce(l.pid, -1) AS holder, coalesce(l.start_us, -1) AS started, patience_us
  FROM undelivered AS l
  CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE l.lasted_us >= patience_us
    AND NOT EXISTS (
      SELECT 1
      FROM full_doors AS d
      WHERE goes_to_door(l.ns, l.local_addr, l.peer_addr, l.peer_port, d.ns, d.addr, d.port, d.client)
    )
),
worst AS (
  SELECT
    ns, holder, started, max(pid) AS pid, max(comm) AS comm, max_by(peer, lasted_us) AS peer, min(since) AS since,
    max(until) AS until, max(lasted_us) AS lasted_us, max_by(waiting, lasted_us) AS waiting, max_by(tries, lasted_us) AS tries,
    first(never_pass ORDER BY lasted_us DESC) AS never_pass,
    max_by(last_sample, lasted_us) AS last_sample, any_value(patience_us) AS patience_us
  FROM lost
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
