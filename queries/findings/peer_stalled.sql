-- title = "Peers that do not read"
-- description = """
-- A process cannot send because the other end has closed its window: what it wrote waits in the send
-- queue, and the kernel only probes whether there is room again. The cause is the process at the
-- other end, which does not read. If that end was recorded too, its own process is named instead
-- (reader_stalled) and this is not said again.
-- """
-- needs = ["tcp"]
-- uses = ["pace"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which the window has to be closed without a break: a short stop of the reader is none."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the connection's samples with a closed window from which it is critical: the connection hangs more than it works."
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
shut AS (
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
    send_q,
    bytes_acked
  FROM sockets
  WHERE send_q > 0
    AND netid = 'tcp'
    AND state IN ('ESTAB', 'FIN-WAIT-1', 'CLOSE-WAIT', 'CLOSING', 'LAST-ACK')
    AND (timer = 'persist' OR (snd_wnd = 0 AND coalesce(retransmits, 0) = 0))
),
places AS (
  SELECT netns, sample, row_number() OVER (PARTITION BY netns ORDER BY sample) AS place
  FROM (SELECT DISTINCT netns, sample FROM sockets WHERE netns IN (SELECT netns FROM shut)) AS seen
),
islands AS (
  SELECT
    f.*,
    p.place - row_number() OVER (PARTITION BY f.netns, f.cookie ORDER BY f.sample) AS island
  FROM shut AS f
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
    min(sample) AS first_sample,
    max(sample) AS last_sample,
    min(sample_time) AS since,
    max(sample_time) AS until,
    max(t_us) - min(t_us) AS lasted_us,
    count(*) AS samples,
    max(send_q) AS peak,
    max(bytes_acked) - min(bytes_acked) AS acked
  FROM islands
  GROUP BY netns, cookie, island
),
stalls AS (
  SELECT s.*
  FROM spans AS s
  CROSS JOIN pace
  WHERE s.lasted_us >= pace.patience_us
),
own_readers AS (
  -- The other end is on this host, held by a process, and has not read.
  SELECT DISTINCT t.netns, t.cookie
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
    AND s.sample BETWEEN t.first_sample AND t.last_sample
  WHERE s.netid = 'tcp' AND s.recv_q > 0 AND coalesce(s.inode, 1) <> 0
),
waiting AS (
  SELECT
    t.netns,
    t.cookie,
    max(t.pid) AS pid,
    max(t.start_us) AS start_us,
    max(t.comm) AS comm,
    any_value(t.peer_addr) AS peer_addr,
    any_value(t.peer_port) AS peer_port,
    min(t.since) AS since,
    max(t.until) AS until,
    sum(t.samples) AS shut_samples,
    max(t.lasted_us) AS lasted_us,
    max(t.peak) AS peak
  FROM stalls AS t
  WHERE NOT EXISTS (SELECT 1 FROM own_readers AS o WHERE o.netns = t.netns AND o.cookie = t.cookie)
  GROUP BY t.netns, t.cookie
),
lives AS (
  SELECT w.netns, w.cookie, count(*) AS samples
  FROM sockets AS s
  JOIN waiting AS w
    ON w.netns = s.netns
    AND w.cookie = s.cookie
  GROUP BY w.netns, w.cookie
),
ranked AS (
  SELECT
    w.*,
    l.samples,
    1.0 * w.shut_samples / l.samples AS share,
    count(*) OVER (PARTITION BY w.netns, w.pid, w.start_us) AS connections,
    row_number() OVER (PARTITION BY w.netns, w.pid, w.start_us ORDER BY w.lasted_us DESC, w.cookie) AS place
  FROM waiting AS w
  JOIN lives AS l
    ON l.netns = w.netns
    AND l.cookie = w.cookie
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
    'the peer ',
    n.peer,
    ' does not read what ',
    CASE WHEN n.comm IS NOT NULL THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    printf(
      ' sends: its window was closed in %,d of %,d samples, for %.0f s on end, with up to %,.0f kB waiting here',
      CAST(n.shut_samples AS BIGINT),
      CAST(n.samples AS BIGINT),
      CAST(n.lasted_us / 1000000.0 AS DOUBLE),
      CAST(n.peak / 1000.0 AS DOUBLE)
    ),
    CASE
      WHEN n.connections > 1 THEN printf('; %,d connections of the process are like that', n.connections)
      ELSE ''
    END
  ) AS sentence,
  'queue_growth' AS report
FROM named AS n
CROSS JOIN params AS p
CROSS JOIN pace
