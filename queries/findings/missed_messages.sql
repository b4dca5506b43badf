-- title = "Messages and packets that programs missed"
-- description = """
-- The receive buffer of a netlink, packet or raw socket was full, and the kernel dropped what else came.
-- Who follows the kernel by netlink (routes, links, connection tracking, audit: a routing daemon,
-- keepalived, a network manager) gets ENOBUFS and does not know what changed, until it asks for all of
-- it again; a capture has holes. Read sooner, or enlarge the buffer (SO_RCVBUFFORCE). What a ring of
-- packets (PACKET_MMAP) lost is not counted there, and sockets of which no process is known are not told.
-- """
-- needs = ["other_drops"]
-- uses = ["history", "netns_of", "who"]
--
-- [params.messages]
-- type = "BIGINT"
-- default = 10
-- doc = "Messages or packets that were dropped: of a few at once, when a program starts, it asks for all again."
WITH steps AS (
  SELECT
    ns, cookie, netid, pid, start_us, comm, local_addr, sample, sample_time, recv_q, rcvbuf, wanted,
    drops - lag(drops) OVER (PARTITION BY ns, cookie ORDER BY sample) AS missed
  FROM history
  WHERE netid IN ('nl', 'p_raw', 'p_dgr', 'raw') AND drops IS NOT NULL
),
missing AS (
  SELECT
    ns, pid, start_us, netid, max_by(comm, sample) AS comm, max_by(local_addr, sample) AS local_addr, CAST(sum(missed) AS BIGINT) AS missed,
    count(DISTINCT cookie) AS sockets, min(sample_time) AS since, max(sample_time) AS until, max(recv_q) AS recv_q, max(rcvbuf) AS rcvbuf
  FROM steps
  WHERE wanted AND missed > 0 AND pid IS NOT NULL
  GROUP BY ns, pid, start_us, netid
)
SELECT
  CASE WHEN n.netid = 'nl' THEN 'warning' ELSE 'note' END AS severity, CAST(0.5 AS DOUBLE) AS score,
  who(n.comm, n.pid) AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.missed AS DOUBLE) AS measured, CAST(p.messages AS DOUBLE) AS threshold,
  concat(
    who(n.comm, n.pid), ' does not read its ',
    CASE WHEN n.netid = 'nl' THEN concat('netlink socket (', n.local_addr, ')') WHEN n.netid = 'raw' THEN 'raw socket' ELSE 'packet socket' END,
    ' fast enough: ',
    printf(
      CASE
        WHEN n.netid = 'nl' THEN '%,d messages of the kernel were dropped, so that what it knows of it may be out of date'
        ELSE '%,d packets were dropped'
      END,
      n.missed
    ),
    printf('; up to %,.0f kB lay in its receive buffer of %,.0f kB', CAST(n.recv_q / 1000.0 AS DOUBLE), CAST(n.rcvbuf / 1000.0 AS DOUBLE)),
    CASE WHEN n.sockets > 1 THEN printf('; that is on %,d of its sockets', n.sockets) END
  ) AS sentence,
  'memory' AS report
FROM missing AS n CROSS JOIN params AS p
WHERE n.missed >= p.messages
