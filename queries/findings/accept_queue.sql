-- title = "Accept queues that overflow"
-- description = """
-- A process does not accept its connections fast enough: more wait than its backlog allows, and the
-- kernel drops what else comes. Clients wait, try again and give up. The sentence says what the
-- process was doing at that time, if that was recorded (report processes); a larger backlog (listen(), and
-- net.core.somaxconn, whichever is less) only helps against short bursts. Or it accepts nothing at
-- all: then clients give up in a queue that need not be full. Whoever listened there, one process
-- after another or several together, is told in one.
-- """
-- needs = ["tcp", "listeners"]
-- uses = [
--   "counter_growth", "doing", "full_processes", "left_out", "listeners", "netns_of", "pace", "patience", "process_looks", "who_all",
-- ]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which the first in the queue waits, full or not, by the kernel's clock: a server at work accepts at once, and many clients give up after that."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.full_samples]
-- type = "BIGINT"
-- default = 2
-- doc = "Samples in which more wait than the backlog allows. One alone may be a burst that was accepted at once."
--
-- [params.drops]
-- type = "BIGINT"
-- default = 1
-- doc = "Connection attempts dropped at a full queue. The kernel counts only what it did drop, so one is one too many."
--
-- [params.clients]
-- type = "BIGINT"
-- default = 3
-- doc = "Who wait in a queue from which nothing is accepted, from which it is critical though it is not full: one or two may be a test or a probe of a port that nobody means to serve."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of drops in drops and accepted connections from which it is critical: every tenth client waits a second at least, the first retransmission of a SYN."
WITH kernel AS (
  SELECT
    ns, max(growth) FILTER (WHERE name = 'TcpExt.ListenOverflows') AS overflows,
    max(growth) FILTER (WHERE name = 'Tcp.PassiveOpens') AS accepted, max(s.since) AS since, max(s.until) AS until
  FROM counter_growth AS g
  LEFT JOIN (SELECT ns, min(sample_time) AS since, max(sample_time) AS until FROM samples GROUP BY ns) AS s USING (ns)
  WHERE name IN ('TcpExt.ListenOverflows', 'Tcp.PassiveOpens')
  GROUP BY ns
),
troubled AS MATERIALIZED (
  SELECT q.*, d.fd_limit, limits.patience_us, k.accepted, k.overflows
  FROM listeners AS q
  LEFT JOIN kernel AS k USING (ns)
  LEFT JOIN full_processes AS d
    ON d.pid = q.pid AND d.start_us = q.start_us
    AND d.since <= greatest(q.full_until, q.drops_until, q.wait_until) AND d.until >= least(q.full_since, q.drops_since, q.wait_since)
  CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  CROSS JOIN params AS p
  WHERE q.netid IN ('tcp', 'sctp', 'dccp')
    -- A listener drops for want of memory too.
    AND (
      q.full_samples >= p.full_samples
      OR (q.drops >= p.drops AND (k.overflows IS NULL OR k.overflows > 0))
      OR q.wait_us >= limits.patience_us
    )
),
folded AS (
  SELECT
    ns, netid, local, comm, any_value(netns) AS netns, list_sort(list_distinct(list(pid))) AS pids,
    first(pid ORDER BY drops DESC NULLS LAST, full_samples DESC, wait_us DESC NULLS LAST, cookie) AS pid,
    first(start_us ORDER BY drops DESC NULLS LAST, full_samples DESC, wait_us DESC NULLS LAST, cookie) AS start_us,
    first(backlog ORDER BY drops DESC NULLS LAST, full_samples DESC, wait_us DESC NULLS LAST, cookie) AS backlog,
    CAST(sum(samples) AS BIGINT) AS samples, CAST(sum(full_samples) AS BIGINT) AS full_samples, max(queue_peak) AS queue_peak,
    -- Its own count has other packets too: together no more than the kernel counted.
    CAST(least(sum(drops), any_value(overflows)) AS BIGINT) AS drops, 1.0 * sum(full_samples) / sum(samples) AS full_share,
    coalesce(1.0 * least(sum(drops), any_value(overflows)) / nullif(least(sum(drops), any_value(overflows)) + any_value(accepted), 0), 0.0) AS dropped_share,
    max(CASE WHEN wait_us >= patience_us THEN wait_us END) AS wait_us,
    -- Of a shorter recording: in all of it.
    max(CASE WHEN wait_us >= patience_us AND stood_us >= least(patience_us, last_us - first_us) THEN nullif(stood_us, 0) END) AS stood_us,
    max(CASE WHEN wait_us >= patience_us THEN gave_up END) AS gave_up, max(fd_limit) AS fd_limit,
    min(least(full_since, drops_since, CASE WHEN wait_us >= patience_us THEN wait_since END)) AS since,
    max(greatest(full_until, drops_until, CASE WHEN wait_us >= patience_us THEN wait_until END)) AS until,
    any_value(patience_us) AS patience_us, max(holders) AS holders
  FROM troubled
  GROUP BY ns, netid, local, comm
),
did AS (
  SELECT f.ns, f.netid, f.local, f.comm, doing(l, epoch_us(f.since), epoch_us(f.until)) AS did
  FROM folded AS f
  JOIN process_looks AS l
    ON l.pid = f.pid AND l.start_us = f.start_us AND l.at_us <= epoch_us(f.until) AND l.until_us >= epoch_us(f.since)
  WHERE len(f.pids) = 1
  GROUP BY f.ns, f.netid, f.local, f.comm
)
SELECT
  CASE
    WHEN n.drops > 0 AND (n.full_samples >= p.full_samples OR 100.0 * n.dropped_share >= p.critical_percent) THEN 'critical'
    WHEN n.stood_us > 0 AND (n.queue_peak >= p.clients OR n.full_samples > 0 OR n.fd_limit > 0) THEN 'critical'
    ELSE 'warning'
  END AS severity,
  -- What has reached its limit comes before what may: at least half.
  CAST(
    CASE WHEN n.drops > 0 OR n.stood_us > 0 THEN 0.5 + 0.5 * greatest(n.full_share, n.dropped_share) ELSE n.full_share END AS DOUBLE
  ) AS score,
  n.local AS subject, n.netns, n.pid, n.comm, n.since, n.until,
  CAST(
    CASE WHEN n.full_samples > 0 THEN n.queue_peak WHEN n.drops > 0 THEN n.drops ELSE n.wait_us / 1000000.0 END AS DOUBLE
  ) AS measured,
  CAST(
    CASE WHEN n.full_samples > 0 THEN n.backlog WHEN n.drops > 0 THEN p.drops ELSE n.patience_us / 1000000.0 END AS DOUBLE
  ) AS threshold,
  concat(
    coalesce(who_all(n.comm, n.pids), 'an unknown process'),
    CASE WHEN n.holders > 1 AND len(n.pids) = 1 THEN printf(' and %,d more who hold that socket', n.holders - 1) END,
    CASE
      WHEN n.fd_limit > 0
        THEN printf(' has no descriptor left (%,d of %,d), so that accept() fails: its accept queue on ', n.fd_limit, n.fd_limit)
      WHEN n.stood_us > 0 THEN printf(' accepted nothing for %.0f s: its accept queue on ', CAST(n.stood_us / 1000000.0 AS DOUBLE))
      WHEN n.drops > 0 THEN ' lets its accept queue on '
      ELSE ' accepts too slowly: its accept queue on '
    END,
    n.local, CASE WHEN n.drops > 0 AND n.fd_limit IS NULL AND n.stood_us IS NULL THEN ' overflow: ' ELSE ' was ' END,
    CASE
      WHEN n.full_samples > 0
        THEN printf('full (%,d waited, %,d may) in %,d of %,d samples', n.queue_peak, n.backlog, n.full_samples, n.samples)
      WHEN n.drops > 0 THEN printf('in bursts between samples, %,d may wait', n.backlog)
      ELSE printf('not full (%,d waited, %,d may)', n.queue_peak, n.backlog)
    END,
    CASE
      WHEN n.drops = 1 THEN ', 1 connection attempt dropped'
      WHEN n.drops > 1 THEN printf(', %,d connection attempts dropped', n.drops)
    END,
    CASE WHEN n.wait_us > 0 THEN printf('; the first in it waited for %.0f s', CAST(n.wait_us / 1000000.0 AS DOUBLE)) END,
    CASE
      WHEN n.fd_limit > 0 AND n.stood_us > 0 THEN printf(', and none was accepted for %.0f s', CAST(n.stood_us / 1000000.0 AS DOUBLE))
    END,
    CASE WHEN n.gave_up > 0 THEN printf('; %,d had given up in it', n.gave_up) END, '; ' || d.did
  ) AS sentence,
  'listen_queues' AS report
FROM folded AS n
LEFT JOIN did AS d ON d.ns = n.ns AND d.netid = n.netid AND d.local = n.local AND d.comm IS NOT DISTINCT FROM n.comm
CROSS JOIN params AS p
UNION ALL
SELECT
  'warning' AS severity, CAST(coalesce(1.0 * k.overflows / nullif(k.overflows + k.accepted, 0), 0.0) AS DOUBLE) AS score,
  concat('network namespace ', netns_of(k.ns)) AS subject, netns_of(k.ns) AS netns,
  CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm, k.since, k.until,
  CAST(k.overflows AS DOUBLE) AS measured, CAST(p.drops AS DOUBLE) AS threshold,
  concat(
    'an unknown process lets an accept queue in network namespace ', netns_of(k.ns),
    printf(' overflow, one that is not among these sockets: connection attempts dropped: %,d', k.overflows)
  ) AS sentence,
  'listen_queues' AS report
FROM kernel AS k CROSS JOIN params AS p
WHERE k.overflows >= p.drops
  AND NOT EXISTS (SELECT 1 FROM left_out WHERE kind = 'tcp')
  AND NOT EXISTS (SELECT 1 FROM troubled AS t WHERE t.ns = k.ns)
