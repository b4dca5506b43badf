-- title = "SYN queues that overflow"
-- description = """
-- More connections are half open than a listener may keep: the kernel drops SYNs, or answers with
-- cookies and forgets window scaling and SACK for those connections. Either many clients come at
-- once, or SYNs come from addresses that never answer (a flood: look at the peers in SYN-RECV). The
-- limit is the listener's backlog, and net.ipv4.tcp_max_syn_backlog without cookies.
-- """
-- needs = ["counters"]
-- uses = ["counter_growth", "door_looks", "endpoint", "handshakes", "netns_of", "sysctls", "who"]
--
-- [params.count]
-- type = "BIGINT"
-- default = 1
-- doc = "SYNs dropped or answered with a cookie as the queue was full. The kernel counts only what it did, so one is one too many."
WITH kernel AS (
  SELECT
    ns, coalesce(sum(growth) FILTER (WHERE name = 'TcpExt.TCPReqQFullDrop'), 0) AS dropped,
    -- Where every SYN is answered with a cookie, the queue is never asked.
    CASE
      WHEN any_value(s.value) = '2' THEN 0
      ELSE coalesce(sum(growth) FILTER (WHERE name = 'TcpExt.TCPReqQFullDoCookies'), 0)
    END AS cookies,
    coalesce(sum(growth) FILTER (WHERE name = 'Tcp.PassiveOpens'), 0) AS accepted,
    min(since) FILTER (WHERE name <> 'Tcp.PassiveOpens') AS since,
    max(until) FILTER (WHERE name <> 'Tcp.PassiveOpens') AS until
  FROM counter_growth
  LEFT JOIN (SELECT ns, value FROM sysctls WHERE name = 'net.ipv4.tcp_syncookies') AS s USING (ns)
  WHERE name IN ('TcpExt.TCPReqQFullDrop', 'TcpExt.TCPReqQFullDoCookies', 'Tcp.PassiveOpens')
  GROUP BY ns
),
worst AS (
  SELECT ns, endpoint(d.local_addr, d.local_port) AS local, d.pid, d.comm, d.backlog, max(h.half_open) AS half_open
  FROM (
    SELECT ns, local_port, door_addr AS local_addr, sample, CAST(sum(waiting) AS BIGINT) AS half_open
    FROM handshakes
    GROUP BY ns, local_port, door_addr, sample
  ) AS h
  JOIN door_looks AS d USING (ns, local_port, local_addr)
  WHERE d.is_last
  GROUP BY ns, d.local_addr, d.local_port, d.pid, d.comm, d.backlog
  QUALIFY row_number() OVER (PARTITION BY ns ORDER BY max(h.half_open) DESC, d.local_port, d.local_addr) = 1
),
named AS (
  SELECT
    k.*, w.pid, w.comm, w.backlog, w.half_open, coalesce(w.local, concat('network namespace ', netns_of(k.ns))) AS place,
    1.0 * (k.dropped + k.cookies) / nullif(k.dropped + k.cookies + k.accepted, 0) AS share
  FROM kernel AS k LEFT JOIN worst AS w USING (ns)
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
      ELSE concat('of ', who(n.comm, n.pid), ' on ')
    END,
    n.place, ' overflowed: ',
    CASE
      WHEN n.half_open IS NOT NULL
        THEN printf('%,d connections half open at once with a backlog of %,d, ', n.half_open, n.backlog)
    END,
    printf('%,d SYNs dropped and %,d answered with cookies', CAST(n.dropped AS BIGINT), CAST(n.cookies AS BIGINT))
  ) AS sentence,
  'syn_backlog' AS report
FROM named AS n CROSS JOIN params AS p
WHERE n.dropped + n.cookies >= p.count
