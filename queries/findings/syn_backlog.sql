-- title = "SYN queues that overflow"
-- description = """
-- More connections are half open than a listener may keep: the kernel drops SYNs, or answers with
-- cookies and forgets window scaling and SACK for those connections. Either many clients come at
-- once, or SYNs come from addresses that never answer (a flood): who lives sends its cookie back. The
-- limit is the listener's backlog, and net.ipv4.tcp_max_syn_backlog without cookies.
-- """
-- needs = ["counters"]
-- uses = [
--   "counter_growth", "door_looks", "endpoint", "handshakes", "netns_of", "sysctls", "tcp_reads", "who_all",
-- ]
--
-- [params.count]
-- type = "BIGINT"
-- default = 1
-- doc = "SYNs dropped or answered with a cookie as the queue was full. The kernel counts only what it did, so one is one too many."
--
-- [params.flood_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the cookies that came back below which it is called a flood: every client that lives sends its cookie back, some twice."
WITH kernel AS (
  SELECT
    ns, coalesce(sum(growth) FILTER (WHERE name = 'TcpExt.TCPReqQFullDrop'), 0) AS dropped,
    -- Where every SYN is answered with a cookie, the queue is never asked.
    CASE
      WHEN any_value(s.value) = '2' THEN 0
      ELSE coalesce(sum(growth) FILTER (WHERE name = 'TcpExt.TCPReqQFullDoCookies'), 0)
    END AS cookies,
    coalesce(sum(growth) FILTER (WHERE name = 'Tcp.PassiveOpens'), 0) AS accepted,
    sum(growth) FILTER (WHERE name = 'TcpExt.SyncookiesSent') AS sent,
    sum(growth) FILTER (WHERE name = 'TcpExt.SyncookiesRecv') AS came_back,
    min(since) FILTER (WHERE name LIKE 'TcpExt.TCPReqQFull%') AS since,
    max(until) FILTER (WHERE name LIKE 'TcpExt.TCPReqQFull%') AS until
  FROM counter_growth
  LEFT JOIN (SELECT ns, value FROM sysctls WHERE name = 'net.ipv4.tcp_syncookies') AS s USING (ns)
  WHERE name IN (
    'TcpExt.TCPReqQFullDrop', 'TcpExt.TCPReqQFullDoCookies', 'TcpExt.SyncookiesSent', 'TcpExt.SyncookiesRecv', 'Tcp.PassiveOpens'
  )
  GROUP BY ns
),
counted_in AS MATERIALIZED (
  -- A sample sees what grew since the one before.
  SELECT t.ns, t.sample
  FROM (
    SELECT ns, sample, sample_time, coalesce(lead(sample_time) OVER (PARTITION BY ns ORDER BY sample), sample_time) AS next_time
    FROM tcp_reads
  ) AS t
  JOIN kernel AS k USING (ns)
  WHERE t.next_time >= k.since AND t.sample_time <= k.until
),
worst AS (
  -- Who listened then, with most half open while the kernel counted: a counter is of the namespace,
  -- and who listens there now may have come later.
  SELECT
    h.ns, h.local_addr, h.local_port, endpoint(h.local_addr, h.local_port) AS local, d.pid_then AS pid, d.comm_then AS comm, d.backlog_then AS backlog, h.half_open
  FROM (
    SELECT ns, local_port, door_addr AS local_addr, sample, CAST(sum(waiting) AS BIGINT) AS half_open
    FROM handshakes
    GROUP BY ns, local_port, door_addr, sample
  ) AS h
  JOIN door_looks AS d USING (ns, local_port, local_addr, sample)
  SEMI JOIN counted_in AS t USING (ns, sample)
  QUALIFY row_number() OVER (PARTITION BY ns ORDER BY h.half_open DESC, h.sample, h.local_port, h.local_addr) = 1
),
holders AS (
  SELECT d.ns, d.local_addr, d.local_port, list_sort(list_distinct(list(d.pid_then))) AS pids
  FROM door_looks AS d SEMI JOIN counted_in AS t USING (ns, sample)
  GROUP BY d.ns, d.local_addr, d.local_port
),
named AS (
  SELECT
    k.*, w.pid, who_all(w.comm, h.pids) AS who, w.comm, w.backlog, w.half_open, coalesce(w.local, concat('network namespace ', netns_of(k.ns))) AS place,
    1.0 * (k.dropped + k.cookies) / nullif(k.dropped + k.cookies + k.accepted, 0) AS share
  FROM kernel AS k LEFT JOIN worst AS w USING (ns) LEFT JOIN holders AS h ON h.ns = w.ns AND h.local_addr = w.local_addr AND h.local_port = w.local_port
)
SELECT
  CASE WHEN n.dropped > 0 THEN 'critical' ELSE 'warning' END AS severity, CAST(n.share AS DOUBLE) AS score,
  n.place AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.dropped + n.cookies AS DOUBLE) AS measured, CAST(p.count AS DOUBLE) AS threshold,
  concat(
    'the SYN queue ',
    CASE
      WHEN n.half_open IS NULL THEN 'of an unknown process in '
      WHEN n.comm IS NULL THEN 'of an unknown process on '
      ELSE concat('of ', n.who, ' on ')
    END,
    n.place, ' overflowed: ',
    CASE
      WHEN n.half_open IS NOT NULL
        THEN printf('%,d connections half open at once with a backlog of %,d, ', n.half_open, n.backlog)
    END,
    printf('%,d SYNs dropped and %,d answered with cookies', CAST(n.dropped AS BIGINT), CAST(n.cookies AS BIGINT)),
    CASE
      WHEN n.sent > 0 AND n.came_back IS NOT NULL
        THEN concat(
          printf('; of %,d cookies %,d came back, ', CAST(n.sent AS BIGINT), CAST(n.came_back AS BIGINT)),
          CASE
            WHEN 100.0 * n.came_back < p.flood_percent * n.sent
              THEN 'so that most SYNs came from addresses that never answer: a flood'
            ELSE 'so that they were clients, more at once than the backlog allows'
          END
        )
    END
  ) AS sentence,
  'syn_backlog' AS report
FROM named AS n CROSS JOIN params AS p
WHERE n.dropped + n.cookies >= p.count
