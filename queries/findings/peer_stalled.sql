-- title = "Peers that do not read"
-- description = """
-- A process cannot send because the other end has closed its window: what it wrote waits in the send
-- queue, and the kernel only probes whether there is room again. The cause is the process at the
-- other end, which does not read. If that end was recorded too, its own process is named instead
-- (reader_stalled) and this is not said again.
-- """
-- needs = ["tcp", "timers"]
-- lasts = "seconds"
-- uses = ["full_spells", "is_certain", "netns_of", "opposite", "pace", "patience", "who"]
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
WITH stalls AS MATERIALIZED (
  SELECT s.*, patience_us
  FROM full_spells AS s CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE s.queue = 'Send-Q' AND s.lasted_us >= patience_us
),
waiting AS (
  SELECT
    t.ns, t.cookie, max_by(t.pid, t.last_sample) AS pid, max_by(t.start_us, t.last_sample) AS start_us, max_by(t.comm, t.last_sample) AS comm, any_value(t.peer) AS peer,
    min(t.since) AS since, max(t.until) AS until, CAST(sum(t.samples) AS BIGINT) AS shut_samples,
    max(t.lasted_us) AS lasted_us, max(t.peak) AS peak, any_value(t.life_samples) AS samples,
    any_value(t.patience_us) AS patience_us
  FROM stalls AS t
  ANTI JOIN (
    -- The other end is on this host, held by a process, and has not read.
    SELECT t.ns, t.cookie
    FROM stalls AS t
    JOIN sockets AS s
      ON opposite(
        s.ns, s.local_addr, s.local_port, s.peer_addr, s.peer_port, t.ns, t.local_addr, t.local_port, t.peer_addr, t.peer_port
      )
      AND s.sample BETWEEN t.first_sample AND t.last_sample
    WHERE s.netid = 'tcp' AND coalesce(s.inode, 1) <> 0
    GROUP BY t.ns, t.cookie
    HAVING is_certain(t.ns, s.ns) AND coalesce(max(s.recv_q) FILTER (WHERE s.ns = t.ns), max(s.recv_q)) > 0
  ) AS o USING (ns, cookie)
  GROUP BY t.ns, t.cookie
),
worst AS (
  SELECT *, 1.0 * shut_samples / samples AS share, count(*) OVER (PARTITION BY ns, pid, start_us) AS connections
  FROM waiting
  QUALIFY row_number() OVER (PARTITION BY ns, pid, start_us ORDER BY lasted_us DESC, cookie) = 1
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity, CAST(n.share AS DOUBLE) AS score,
  n.peer AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured, CAST(n.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    'the peer ', n.peer, ' does not read what ', coalesce(who(n.comm, n.pid), 'an unknown process'),
    printf(
      ' sends: its window was closed in %,d of %,d samples, for %.0f s on end, with up to %,.0f kB waiting here',
      n.shut_samples, n.samples, CAST(n.lasted_us / 1000000.0 AS DOUBLE), CAST(n.peak / 1000.0 AS DOUBLE)
    ),
    CASE WHEN n.connections > 1 THEN printf('; %,d connections of the process are like that', n.connections) END
  ) AS sentence,
  'queue_growth' AS report
FROM worst AS n CROSS JOIN params AS p
