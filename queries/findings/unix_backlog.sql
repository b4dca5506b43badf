-- title = "Unix listeners that are full or accept nothing"
-- description = """
-- A process does not accept its local connections fast enough: as many wait as its backlog allows,
-- and who connects next blocks, or fails with EAGAIN. The sentence says what the process was doing at
-- that time, if that was recorded (report processes); a larger backlog (listen(), net.core.somaxconn) only helps against short bursts. Or it accepts
-- nothing for a while: then those wait who have connected.
-- """
-- needs = ["unix"]
-- lasts = "seconds"
-- uses = ["doing", "full_processes", "listeners", "pace", "patience", "process_looks"]
--
-- [params.full_samples]
-- type = "BIGINT"
-- default = 2
-- doc = "Samples in which more wait than the backlog allows. One alone may be a burst that was accepted at once."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which someone waits and the queue never gets shorter, full or not: a server at work accepts at once."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.clients]
-- type = "BIGINT"
-- default = 3
-- doc = "Who wait in a queue that never gets shorter, from which it is critical though it is not full: one or two may be a test or a probe."
WITH troubled AS (
  SELECT
    q.*, d.fd_limit, q.stood_us >= limits.patience_us AS is_stuck, q.full_samples >= p.full_samples AS is_full,
    limits.patience_us,
    epoch_us(CASE WHEN q.stood_us >= limits.patience_us THEN least(q.full_since, q.wait_since) ELSE q.full_since END) AS since_us,
    epoch_us(CASE WHEN q.stood_us >= limits.patience_us THEN greatest(q.full_until, q.wait_until) ELSE q.full_until END) AS until_us
  FROM listeners AS q
  LEFT JOIN full_processes AS d
    ON d.pid = q.pid AND d.start_us = q.start_us
    AND d.since <= greatest(q.full_until, q.wait_until) AND d.until >= least(q.full_since, q.wait_since)
  CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  CROSS JOIN params AS p
  WHERE q.netid IN ('u_str', 'u_seq') AND (q.full_samples >= p.full_samples OR q.stood_us >= limits.patience_us)
),
did AS (
  SELECT t.ns, t.cookie, doing(l, t.since_us, t.until_us) AS did
  FROM troubled AS t
  JOIN process_looks AS l ON l.pid = t.pid AND l.start_us = t.start_us AND l.at_us <= t.until_us AND l.until_us >= t.since_us
  GROUP BY t.ns, t.cookie
)
SELECT
  CASE WHEN q.is_full OR q.queue_peak >= p.clients OR q.fd_limit > 0 THEN 'critical' ELSE 'warning' END AS severity,
  CAST(CASE WHEN q.is_full THEN 1.0 * q.full_samples / q.samples ELSE least(1.0, 1.0 * q.stood_us / nullif(q.last_us - q.first_us, 0)) END AS DOUBLE) AS score,
  q.local AS subject, q.netns, q.pid, q.comm,
  make_timestamp(q.since_us) AS since, make_timestamp(q.until_us) AS until,
  CAST(CASE WHEN q.is_full THEN q.queue_peak ELSE q.stood_us / 1000000.0 END AS DOUBLE) AS measured,
  CAST(CASE WHEN q.is_full THEN q.backlog ELSE q.patience_us / 1000000.0 END AS DOUBLE) AS threshold,
  concat(
    coalesce(q.who, 'an unknown process'),
    CASE
      WHEN q.fd_limit > 0 THEN printf(' has no descriptor left (%,d of %,d), so that accept() fails', q.fd_limit, q.fd_limit)
      ELSE ' accepts too slowly'
    END,
    ': its queue on the unix socket ', coalesce(q.local, 'without a name'),
    CASE
      WHEN q.is_full
        THEN printf(' was full (%,d waited, %,d may) in %,d of %,d samples', q.queue_peak, q.backlog, q.full_samples, q.samples)
      ELSE printf(' was not full (%,d waited, %,d may)', q.queue_peak, q.backlog)
    END,
    CASE WHEN q.is_stuck THEN printf(', and never got shorter for %.0f s', CAST(q.stood_us / 1000000.0 AS DOUBLE)) END,
    CASE WHEN q.is_full THEN '; who connects then blocks or fails' END, '; ' || d.did
  ) AS sentence,
  'unix_sockets' AS report
FROM troubled AS q LEFT JOIN did AS d USING (ns, cookie) CROSS JOIN params AS p
