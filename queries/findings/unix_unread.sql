-- title = "Unix sockets that nobody reads"
-- description = """
-- What other processes write to a unix socket lies there, as the process that holds it does not read:
-- it is stopped or hangs (rsyslogd, journald, a proxy). A datagram socket takes no more than
-- net.unix.max_dgram_qlen datagrams, a connection no more than the writer's send buffer: then who
-- writes blocks, in syslog() for one, or gets EAGAIN. Look at what the reader was doing.
-- """
-- needs = ["unix"]
-- lasts = "seconds"
-- uses = ["netns_of", "pace", "patience", "sysctls", "unix_waits", "who"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which something lies there and nothing is read: for less, a process may be busy."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.datagram_bytes]
-- type = "BIGINT"
-- default = 768
-- doc = "Memory of the smallest datagram: with so much for each of max_dgram_qlen of them the queue may be full. The kernel does not tell how many lie there."
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of a writer's send buffer taken by what it wrote to a connection: a whole message has to fit into the rest, so that it blocks before all of it is taken."
WITH stuck AS (
  SELECT
    w.ns, w.cookie, w.first_sample, w.last_sample, w.since, w.until, w.lasted_us, any_value(patience_us) AS patience_us, max_by(s.netid, s.sample) AS netid, max(nullif(s.inode, 0)) AS inode,
    max(s.local_addr) AS path, max_by(s.pid, s.sample) AS pid, max_by(s.comm, s.sample) AS comm
  FROM unix_waits AS w
  JOIN sockets AS s ON s.ns = w.ns AND s.cookie = w.cookie AND s.sample BETWEEN w.first_sample AND w.last_sample
  CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE w.lasted_us >= patience_us
  GROUP BY w.ns, w.cookie, w.first_sample, w.last_sample, w.since, w.until, w.lasted_us, w.least, w.bytes
  -- The first of several equal datagrams tells nothing if it is another each time.
  HAVING netid <> 'u_dgr' OR w.least = w.bytes
  QUALIFY row_number() OVER (PARTITION BY w.ns, w.cookie ORDER BY w.lasted_us DESC, w.first_sample) = 1
),
writes AS (
  -- What each of them wrote and the reader did not read: in its second half it got no less.
  SELECT
    k.ns, k.cookie, s.ns AS writer_ns, s.cookie AS writer, max_by(s.pid, s.sample) AS pid, max_by(s.comm, s.sample) AS comm,
    max_by(s.send_q, s.sample) AS waiting, max(s.sndbuf) AS sndbuf
  FROM stuck AS k
  JOIN sockets AS s ON s.peer_inode = k.inode AND s.netid = k.netid
  WHERE s.sample BETWEEN k.first_sample AND k.last_sample AND s.send_q > 0
  GROUP BY k.ns, k.cookie, s.ns, s.cookie, k.first_sample, k.last_sample
  HAVING min(s.send_q) FILTER (WHERE 2 * s.sample >= k.first_sample + k.last_sample) = max_by(s.send_q, s.sample)
    AND max(s.send_q) FILTER (WHERE 2 * s.sample >= k.first_sample + k.last_sample) = max_by(s.send_q, s.sample)
),
readers AS (
  SELECT
    k.*, w.waiting, w.names, a.qlen,
    CASE WHEN k.netid = 'u_dgr' THEN w.waiting >= p.datagram_bytes * a.qlen ELSE w.fullest END AS is_full
  FROM stuck AS k
  JOIN (
    SELECT
      ns, cookie, sum(waiting) AS waiting, bool_or(100.0 * waiting >= p.percent * sndbuf) AS fullest,
      list(DISTINCT coalesce(who(comm, pid), 'an unknown process')) AS names
    FROM writes CROSS JOIN params AS p
    GROUP BY ns, cookie
  ) AS w USING (ns, cookie)
  CROSS JOIN params AS p
  LEFT JOIN (SELECT ns, TRY_CAST(value AS BIGINT) AS qlen FROM sysctls WHERE name = 'net.unix.max_dgram_qlen') AS a USING (ns)
  -- A byte that nobody reads in a connection that wakes somebody is no fault.
  WHERE k.netid = 'u_dgr' AND k.path IS NOT NULL OR k.netid <> 'u_dgr' AND w.fullest
),
worst AS (
  SELECT
    * EXCLUDE (names, waiting), count(*) OVER together AS sockets, sum(waiting) OVER together AS waiting,
    list_sort(list_distinct(flatten(list(names) OVER together))) AS names
  FROM readers
  WINDOW together AS (PARTITION BY pid, path)
  QUALIFY row_number() OVER (PARTITION BY pid, path ORDER BY is_full DESC, lasted_us DESC, ns, cookie) = 1
)
SELECT
  CASE WHEN n.is_full THEN 'critical' ELSE 'warning' END AS severity,
  CAST(CASE WHEN n.is_full THEN 1.0 ELSE 0.5 END AS DOUBLE) AS score, coalesce(n.path, 'a unix socket without a name') AS subject,
  netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured, CAST(n.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' does not read its unix socket ', coalesce(n.path, 'without a name'),
    printf(': nothing was read for %.0f s', CAST(n.lasted_us / 1000000.0 AS DOUBLE)),
    printf(', and %,.1f kB lie there of ', CAST(n.waiting / 1000.0 AS DOUBLE)), array_to_string(n.names[1:3], ', '),
    CASE WHEN len(n.names) > 3 THEN printf(' and %,d more', len(n.names) - 3) END,
    CASE WHEN n.is_full THEN CASE WHEN len(n.names) = 1 THEN ', which blocks or gets EAGAIN' ELSE ', which block or get EAGAIN' END END,
    CASE WHEN n.netid = 'u_dgr' AND n.qlen IS NOT NULL THEN printf(' (%,d datagrams may wait, net.unix.max_dgram_qlen)', n.qlen) END,
    CASE WHEN n.sockets > 1 THEN printf('; that is on %,d of its sockets there', n.sockets) END
  ) AS sentence,
  'unix_sockets' AS report
FROM worst AS n CROSS JOIN params AS p
