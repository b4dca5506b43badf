-- title = "Processes that do not read fast enough"
-- description = """
-- The receive queue of a connection is full because the process that holds it does not read: the
-- kernel has closed the window, and the sender, here or elsewhere, waits. The sentence says what the reader
-- was doing, if that was recorded (report processes); nothing is wrong with the
-- network or the sender. A queue that holds something but is not full does not count.
-- """
-- needs = ["tcp", "skmem"]
-- lasts = "seconds"
-- uses = ["doing", "full_spells", "netns_of", "opposite", "pace", "patience", "process_looks", "who"]
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
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the connection's samples with a full queue from which it is critical: the connection hangs more than it works."
WITH stalls AS MATERIALIZED (
  SELECT
    s.ns, s.cookie, max_by(s.pid, s.last_sample) AS pid, max_by(s.start_us, s.last_sample) AS start_us, max_by(s.comm, s.last_sample) AS comm,
    min(s.first_sample) AS first_sample, max(s.last_sample) AS last_sample,
    any_value(s.local_addr) AS local_addr, any_value(s.local_port) AS local_port,
    any_value(s.peer_addr) AS peer_addr, any_value(s.peer_port) AS peer_port, any_value(s.peer) AS peer,
    min(s.since) AS since, max(s.until) AS until, CAST(sum(s.samples) AS BIGINT) AS full_samples, max(s.lasted_us) AS lasted_us,
    max_by(s.moved, s.lasted_us) AS bytes_read, max(s.peak) AS peak, any_value(s.life_samples) AS samples, any_value(patience_us) AS patience_us
  FROM full_spells AS s CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE s.queue = 'Recv-Q' AND s.lasted_us >= patience_us
  GROUP BY s.ns, s.cookie
),
senders AS (
  -- Of the same addresses in several namespaces the own one; which of several others is not known.
  SELECT t.ns, t.cookie, s.comm, s.pid
  FROM stalls AS t
  JOIN sockets AS s
    ON opposite(
      s.ns, s.local_addr, s.local_port, s.peer_addr, s.peer_port, t.ns, t.local_addr, t.local_port, t.peer_addr, t.peer_port
    )
  WHERE s.netid = 'tcp' AND s.comm IS NOT NULL AND s.sample BETWEEN t.first_sample AND t.last_sample
  WINDOW candidates AS (PARTITION BY t.ns, t.cookie)
  QUALIFY row_number() OVER (PARTITION BY t.ns, t.cookie ORDER BY s.ns = t.ns DESC, s.sample DESC) = 1
    AND (s.ns = t.ns OR min(s.ns) OVER candidates = max(s.ns) OVER candidates)
),
worst AS (
  SELECT
    t.*, who(w.comm, w.pid) AS sender, 1.0 * t.full_samples / t.samples AS share,
    count(*) OVER (PARTITION BY t.ns, t.pid, t.start_us) AS connections
  FROM stalls AS t LEFT JOIN senders AS w USING (ns, cookie)
  QUALIFY row_number() OVER (PARTITION BY t.ns, t.pid, t.start_us ORDER BY t.lasted_us DESC, t.cookie) = 1
),
did AS (
  SELECT w.ns, w.cookie, doing(l, epoch_us(w.since), epoch_us(w.until)) AS did
  FROM worst AS w
  JOIN process_looks AS l
    ON l.pid = w.pid AND l.start_us = w.start_us AND l.at_us <= epoch_us(w.until) AND l.until_us >= epoch_us(w.since)
  GROUP BY w.ns, w.cookie
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score, n.peer AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured, CAST(n.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'), ' does not read fast enough what ', n.peer, ' of ' || n.sender,
    printf(
      ' sends: its receive queue was full (up to %,.0f kB) in %,d of %,d samples, for %.0f s on end',
      CAST(n.peak / 1000.0 AS DOUBLE), n.full_samples, n.samples, CAST(n.lasted_us / 1000000.0 AS DOUBLE)
    ),
    CASE
      WHEN n.bytes_read > 0 THEN printf(' in which it read %,.0f kB', CAST(n.bytes_read / 1000.0 AS DOUBLE))
      WHEN n.bytes_read = 0 THEN ' in which it read nothing'
    END,
    CASE WHEN n.connections > 1 THEN printf('; %,d of its connections are like that', n.connections) END, '; ' || d.did
  ) AS sentence,
  'queue_growth' AS report
FROM worst AS n LEFT JOIN did AS d USING (ns, cookie) CROSS JOIN params AS p
