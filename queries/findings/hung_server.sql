-- title = "Servers that have stopped: requests lie unread"
-- description = """
-- Several clients have sent something to a server, and its process has neither read it nor sent
-- anything on any of its connections for seconds: it hangs, is stopped, or its one event loop is busy
-- with something else (a slow command, a lock, garbage collection). The queues need not be full: a
-- request is small, and who sent it waits. What came before the process last sent something does not
-- count: it worked on, and left that alone. The sentence says what the process was doing, if that was
-- recorded (report processes): idle it waits for something, on a core it computes. A process of which one
-- queue is full for as long is told by reader_stalled.
-- """
-- needs = ["tcp", "tcp_info", "inodes"]
-- lasts = "seconds"
-- uses = [
--   "doing", "doors", "endpoint", "full_spells", "netns_of", "pace", "patience", "process_looks", "unmapped", "who",
-- ]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds in which nothing is read or sent while requests lie there: a short stop (garbage collection, a slow query) is none."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.connections]
-- type = "BIGINT"
-- default = 3
-- doc = "Connections with something unread all the time: on one or two it may be what a server means to read later."
WITH unread AS (
  -- The few that matter: whose clients wait in so many samples.
  SELECT ns, pid, start_us
  FROM (
    SELECT s.ns, s.pid, s.start_us, s.cookie
    FROM sockets AS s SEMI JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
    WHERE s.netid = 'tcp' AND s.state IN ('ESTAB', 'CLOSE-WAIT') AND s.inode > 0 AND s.pid IS NOT NULL
      -- The peer's end takes a byte of the queue.
      AND s.recv_q > CAST(s.state = 'CLOSE-WAIT' AS INTEGER)
    GROUP BY s.ns, s.pid, s.start_us, s.cookie
    HAVING count(*) > 1
  ) AS waits CROSS JOIN params AS p
  GROUP BY ns, pid, start_us, p.connections
  HAVING count(*) >= p.connections
),
looks AS (
  SELECT
    s.ns, s.pid, s.start_us, s.comm, s.sample, s.sample_time, s.t_us, s.cookie, s.local_addr, s.local_port, s.recv_q,
    d.local_port IS NOT NULL AND s.recv_q > CAST(s.state = 'CLOSE-WAIT' AS INTEGER)
    -- What came before the process last sent something it may have left alone on purpose.
    AND coalesce(s.last_data_recv_ms <= min(s.last_data_sent_ms) FILTER (WHERE s.bytes_sent > 0) OVER process, true) AS waits,
    -- One that comes was accepted or opened just now; of what is not told nothing is known.
    s.bytes_received IS NULL OR s.bytes_sent IS NULL
    OR (s.bytes_received - s.recv_q, s.bytes_sent) IS DISTINCT FROM lag((s.bytes_received - s.recv_q, s.bytes_sent)) OVER life AS moved
  FROM sockets AS s
  SEMI JOIN unread AS u ON u.ns = s.ns AND u.pid = s.pid AND u.start_us IS NOT DISTINCT FROM s.start_us
  LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
  WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'TIME-WAIT') AND s.inode > 0
  WINDOW
    life AS (PARTITION BY s.ns, s.cookie ORDER BY s.sample),
    process AS (PARTITION BY s.ns, s.pid, s.start_us, s.sample)
),
moments AS (
  SELECT
    ns, pid, start_us, sample, any_value(sample_time) AS sample_time, any_value(t_us) AS t_us, bool_or(moved) AS moved,
    count(*) FILTER (WHERE waits) AS waiting
  FROM looks
  GROUP BY ns, pid, start_us, sample
),
spells AS (
  SELECT
    m.ns, m.pid, m.start_us, m.island, min(m.sample) AS first_sample, max(m.sample) AS last_sample, min(m.sample_time) AS since,
    max(m.sample_time) AS until, max(m.t_us) - min(m.t_us) AS lasted_us, count(*) AS samples, any_value(m.all_samples) AS all_samples
  FROM (
    SELECT
      m.*, count(*) FILTER (WHERE m.moved OR m.waiting < p.connections) OVER life AS island,
      count(*) OVER (PARTITION BY m.ns, m.pid, m.start_us) AS all_samples
    FROM moments AS m CROSS JOIN params AS p
    WINDOW life AS (PARTITION BY m.ns, m.pid, m.start_us ORDER BY m.sample)
  ) AS m
  CROSS JOIN params AS p
  WHERE m.waiting >= p.connections
  GROUP BY m.ns, m.pid, m.start_us, m.island
),
longest AS (
  SELECT s.*, patience_us
  FROM spells AS s CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE s.lasted_us >= patience_us
  QUALIFY row_number() OVER (PARTITION BY s.ns, s.pid, s.start_us ORDER BY s.lasted_us DESC, s.first_sample) = 1
),
hangs AS (
  SELECT
    h.*, w.comm, w.connections, w.bytes, w.place, w.is_several, 1.0 * h.samples / h.all_samples AS share
  FROM longest AS h
  JOIN (
    SELECT
      h.ns, h.pid, h.start_us, any_value(l.comm) AS comm, count(*) AS connections, sum(l.recv_q) AS bytes,
      mode(endpoint(unmapped(l.local_addr), l.local_port)) AS place, count(DISTINCT l.local_port) > 1 AS is_several
    FROM longest AS h
    JOIN looks AS l ON l.ns = h.ns AND l.pid = h.pid AND l.start_us IS NOT DISTINCT FROM h.start_us AND l.sample = h.last_sample AND l.waits
    GROUP BY h.ns, h.pid, h.start_us
  ) AS w ON w.ns = h.ns AND w.pid = h.pid AND w.start_us IS NOT DISTINCT FROM h.start_us
  WHERE NOT EXISTS (
    SELECT 1
    FROM full_spells AS f
    WHERE f.queue = 'Recv-Q' AND f.ns = h.ns AND f.pid = h.pid AND f.start_us IS NOT DISTINCT FROM h.start_us
      AND f.first_sample <= h.last_sample AND f.last_sample >= h.first_sample AND f.lasted_us >= h.patience_us
  )
),
did AS (
  SELECT h.ns, h.pid, h.start_us, doing(l, epoch_us(h.since), epoch_us(h.until)) AS did
  FROM hangs AS h
  JOIN process_looks AS l
    ON l.pid = h.pid AND l.start_us = h.start_us AND l.at_us <= epoch_us(h.until) AND l.until_us >= epoch_us(h.since)
  GROUP BY h.ns, h.pid, h.start_us
)
SELECT
  'critical' AS severity, CAST(n.share AS DOUBLE) AS score, n.place AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured, CAST(n.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' has stopped: ',
    printf(
      'for %.0f s it neither read nor sent anything on its connections, and what clients sent lies unread on %,d of those on %s%s (%,d bytes)',
      CAST(n.lasted_us / 1000000.0 AS DOUBLE), n.connections, n.place, CASE WHEN n.is_several THEN ' and other ports' ELSE '' END,
      CAST(n.bytes AS BIGINT)
    ),
    '; ' || d.did
  ) AS sentence,
  'queue_growth' AS report
FROM hangs AS n LEFT JOIN did AS d ON d.ns = n.ns AND d.pid = n.pid AND d.start_us = n.start_us
