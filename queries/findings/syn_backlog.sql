-- title = "SYN queues that overflow"
-- description = """
-- More connections are half open than a listener may keep: the kernel drops SYNs, or answers with
-- cookies and forgets window scaling and SACK for those connections. Either many clients come at
-- once, or SYNs come from addresses that never answer (a flood: look at the peers in SYN-RECV). The
-- limit is the listener's backlog, and net.ipv4.tcp_max_syn_backlog without cookies.
-- """
-- needs = ["counters"]
-- uses = ["counter_values", "doors"]
--
-- [params.count]
-- type = "BIGINT"
-- default = 1
-- doc = "SYNs dropped or answered with a cookie as the queue was full. The kernel counts only what it did, so one is one too many."
WITH readings AS (
  SELECT
    netns,
    name,
    sample_time,
    value - lag(value) OVER (PARTITION BY netns, source, name ORDER BY sample, phase DESC) AS growth
  FROM counter_values
  WHERE name IN ('TcpExt.TCPReqQFullDrop', 'TcpExt.TCPReqQFullDoCookies', 'Tcp.PassiveOpens')
),
kernel AS (
  SELECT
    netns,
    sum(CASE WHEN name = 'TcpExt.TCPReqQFullDrop' AND growth > 0 THEN growth ELSE 0 END) AS dropped,
    sum(CASE WHEN name = 'TcpExt.TCPReqQFullDoCookies' AND growth > 0 THEN growth ELSE 0 END) AS cookies,
    sum(CASE WHEN name = 'Tcp.PassiveOpens' AND growth > 0 THEN growth ELSE 0 END) AS accepted,
    min(CASE WHEN name <> 'Tcp.PassiveOpens' AND growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN name <> 'Tcp.PassiveOpens' AND growth > 0 THEN sample_time END) AS until
  FROM readings
  GROUP BY netns
),
always AS (
  -- Where every SYN is answered with a cookie, the queue is never asked.
  SELECT netns
  FROM settings
  WHERE name = 'net.ipv4.tcp_syncookies'
  GROUP BY netns
  HAVING max_by(value, sample) = '2'
),
limited AS (
  SELECT
    k.netns,
    k.dropped,
    CASE WHEN a.netns IS NULL THEN k.cookies ELSE 0 END AS cookies,
    k.accepted,
    k.since,
    k.until
  FROM kernel AS k
  LEFT JOIN always AS a
    ON a.netns = k.netns
),
halves AS (
  SELECT netns, local_port, max(half_open) AS half_open
  FROM (
    SELECT
      netns,
      local_port,
      sample,
      count(*) AS half_open
    FROM sockets
    WHERE state = 'SYN-RECV' AND netid IN ('tcp', 'mptcp')
    GROUP BY netns, local_port, sample
  ) AS counted
  GROUP BY netns, local_port
),
doors AS (
  SELECT
    netns,
    local_port,
    min(local_addr) AS local_addr,
    max_by(pid, sample) AS pid,
    max_by(comm, sample) AS comm,
    max_by(send_q, sample) AS backlog
  FROM sockets
  WHERE state = 'LISTEN' AND netid IN ('tcp', 'mptcp')
  GROUP BY netns, local_port
),
worst AS (
  SELECT
    h.netns,
    h.local_port,
    d.local_addr,
    d.pid,
    d.comm,
    d.backlog,
    h.half_open,
    row_number() OVER (PARTITION BY h.netns ORDER BY h.half_open DESC, h.local_port) AS place
  FROM halves AS h
  JOIN doors AS d
    ON d.netns = h.netns
    AND d.local_port = h.local_port
),
named AS (
  SELECT
    l.netns,
    l.dropped,
    l.cookies,
    l.since,
    l.until,
    1.0 * (l.dropped + l.cookies) / nullif(l.dropped + l.cookies + l.accepted, 0) AS share,
    w.pid,
    w.comm,
    w.backlog,
    w.half_open,
    CASE
      WHEN w.local_port IS NULL THEN concat('network namespace ', l.netns)
      WHEN w.local_addr LIKE '%:%' THEN concat('[', w.local_addr, ']:', w.local_port)
      ELSE concat(w.local_addr, ':', w.local_port)
    END AS place
  FROM limited AS l
  LEFT JOIN worst AS w
    ON w.netns = l.netns
    AND w.place = 1
)
SELECT
  CASE WHEN n.dropped > 0 THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score,
  n.place AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.dropped + n.cookies AS DOUBLE) AS measured,
  CAST(p.count AS DOUBLE) AS threshold,
  concat(
    'the SYN queue ',
    CASE
      WHEN n.half_open IS NULL THEN 'of an unknown process in '
      WHEN n.comm IS NULL THEN 'of an unknown process on '
      ELSE concat('of ', n.comm, ' (pid ', n.pid, ') on ')
    END,
    n.place,
    ' overflowed: ',
    CASE
      WHEN n.half_open IS NOT NULL
        THEN printf('%,d connections half open at once with a backlog of %,d, ', n.half_open, n.backlog)
      ELSE ''
    END,
    printf(
      '%,d SYNs dropped and %,d answered with cookies',
      CAST(n.dropped AS BIGINT), CAST(n.cookies AS BIGINT)
    )
  ) AS sentence,
  'syn_backlog' AS report
FROM named AS n
CROSS JOIN params AS p
WHERE n.dropped + n.cookies >= p.count
