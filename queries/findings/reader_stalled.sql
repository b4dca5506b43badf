-- title = "Processes that do not read fast enough"
-- description = """
-- The receive queue of a connection is full because the process that holds it does not read: the
-- kernel has closed the window, and the sender, here or elsewhere, waits. Look at what the reader was
-- doing (blocked, waiting for something else, too slow for the stream); nothing is wrong with the
-- network or the sender. A queue that holds something but is not full does not count.
-- """
-- needs = ["tcp"]
-- uses = ["pace"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which the queue has to be full without a break: a short stop (garbage collection, a slow query) is none."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.fill_percent]
-- type = "DOUBLE"
-- default = 80.0
-- doc = "Share of the receive buffer that counts as full where the kernel does not tell the window (before Linux 6.2): it closes the window when about a sixteenth is left, and what lies in the queue shrinks a little as it is read."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the connection's samples with a full queue from which it is critical: the connection hangs more than it works."
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
filled AS (
  SELECT
    netns,
    cookie,
    sample,
    sample_time,
    t_us,
    local_addr,
    local_port,
    peer_addr,
    peer_port,
    pid,
    start_us,
    comm,
    recv_q,
    bytes_received - recv_q AS bytes_read
  FROM sockets
  CROSS JOIN params AS p
  WHERE recv_q > 0
    AND netid = 'tcp'
    AND state IN ('ESTAB', 'FIN-WAIT-1', 'FIN-WAIT-2', 'CLOSE-WAIT')
    AND coalesce(inode, 1) <> 0
    AND (
      (rcv_wnd < rcv_mss AND 2 * coalesce(rmem_alloc, rcvbuf) >= coalesce(rcvbuf, 0))
      OR (rcv_wnd IS NULL AND 100.0 * rmem_alloc >= p.fill_percent * rcvbuf)
    )
),
places AS (
  SELECT netns, sample, row_number() OVER (PARTITION BY netns ORDER BY sample) AS place
  FROM (SELECT DISTINCT netns, sample FROM sockets WHERE netns IN (SELECT netns FROM filled)) AS seen
),
islands AS (
  SELECT
    f.*,
    p.place - row_number() OVER (PARTITION BY f.netns, f.cookie ORDER BY f.sample) AS island
  FROM filled AS f
  JOIN places AS p
    ON p.netns = f.netns
    AND p.sample = f.sample
),
spans AS (
  SELECT
    netns,
    cookie,
    max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us,
    max_by(comm, sample) AS comm,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    min(sample_time) AS since,
    max(sample_time) AS until,
    max(t_us) - min(t_us) AS lasted_us,
    count(*) AS samples,
    max(recv_q) AS peak,
    max(bytes_read) - min(bytes_read) AS bytes_read
  FROM islands
  GROUP BY netns, cookie, island
),
stalls AS (
  SELECT
    s.netns,
    s.cookie,
    max(s.pid) AS pid,
    max(s.start_us) AS start_us,
    max(s.comm) AS comm,
    any_value(s.local_addr) AS local_addr,
    any_value(s.local_port) AS local_port,
    any_value(s.peer_addr) AS peer_addr,
    any_value(s.peer_port) AS peer_port,
    min(s.since) AS since,
    max(s.until) AS until,
    sum(s.samples) AS full_samples,
    max(s.lasted_us) AS lasted_us,
    max_by(s.bytes_read, s.lasted_us) AS bytes_read,
    max(s.peak) AS peak
  FROM spans AS s
  CROSS JOIN pace
  WHERE s.lasted_us >= pace.patience_us
  GROUP BY s.netns, s.cookie
),
lives AS (
  SELECT
    t.netns,
    t.cookie,
    t.full_samples,
    count(*) AS samples
  FROM sockets AS s
  JOIN stalls AS t
    ON t.netns = s.netns
    AND t.cookie = s.cookie
  GROUP BY t.netns, t.cookie, t.full_samples
),
peers AS (
  SELECT
    t.netns,
    t.cookie,
    max(s.comm) AS comm,
    max(s.pid) AS pid
  FROM stalls AS t
  JOIN sockets AS s
    ON s.local_port = t.peer_port
    AND s.peer_port = t.local_port
    AND replace(s.local_addr, '::ffff:', '') = replace(t.peer_addr, '::ffff:', '')
    AND replace(s.peer_addr, '::ffff:', '') = replace(t.local_addr, '::ffff:', '')
    -- Every network namespace has a loopback of its own.
    AND (
      s.netns = t.netns
      OR (s.local_addr NOT LIKE '127.%' AND s.local_addr NOT LIKE '::ffff:127.%' AND s.local_addr <> '::1')
    )
  WHERE s.netid = 'tcp' AND s.comm IS NOT NULL
  GROUP BY t.netns, t.cookie
),
ranked AS (
  SELECT
    t.*,
    1.0 * l.full_samples / l.samples AS share,
    l.samples,
    w.comm AS sender_comm,
    w.pid AS sender_pid,
    count(*) OVER (PARTITION BY t.netns, t.pid, t.start_us) AS connections,
    row_number() OVER (PARTITION BY t.netns, t.pid, t.start_us ORDER BY t.lasted_us DESC, t.cookie) AS place
  FROM stalls AS t
  JOIN lives AS l
    ON l.netns = t.netns
    AND l.cookie = t.cookie
  LEFT JOIN peers AS w
    ON w.netns = t.netns
    AND w.cookie = t.cookie
),
named AS (
  SELECT
    r.*,
    CASE
      WHEN peer_addr LIKE '%:%' THEN concat('[', peer_addr, ']:', peer_port)
      ELSE concat(peer_addr, ':', peer_port)
    END AS peer
  FROM ranked AS r
  WHERE place = 1
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
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
    CASE WHEN n.comm IS NOT NULL THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    ' does not read fast enough what ',
    n.peer,
    CASE
      WHEN n.sender_comm IS NOT NULL THEN concat(' of ', n.sender_comm, ' (pid ', n.sender_pid, ')')
      ELSE ''
    END,
    printf(
      ' sends: its receive queue was full (up to %,.0f kB) in %,d of %,d samples, for %.0f s on end',
      CAST(n.peak / 1000.0 AS DOUBLE),
      CAST(n.full_samples AS BIGINT),
      CAST(n.samples AS BIGINT),
      CAST(n.lasted_us / 1000000.0 AS DOUBLE)
    ),
    CASE
      WHEN n.bytes_read > 0 THEN printf(' in which it read %,.0f kB', CAST(n.bytes_read / 1000.0 AS DOUBLE))
      WHEN n.bytes_read = 0 THEN ' in which it read nothing'
      ELSE ''
    END,
    CASE
      WHEN n.connections > 1 THEN printf('; %,d of its connections are like that', n.connections)
      ELSE ''
    END
  ) AS sentence,
  'queue_growth' AS report
FROM named AS n
CROSS JOIN params AS p
CROSS JOIN pace
