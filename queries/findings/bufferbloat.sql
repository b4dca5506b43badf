-- title = "Bufferbloat: packets that wait in a full queue on the way"
-- description = """
-- Round trips take far longer than they once did on the same way, for many seconds: packets wait in a
-- queue, of this host's interface or of the slowest link, that a transfer keeps full (bufferbloat).
-- Everyone who shares it waits, and nothing is lost, so that no other counter tells. Give the link a
-- fair queue (tc: fq_codel, cake) and the sender a limit (SO_MAX_PACING_RATE, a slower rate), or use
-- BBR. If nobody here sends much, it is filled by another host, or in the other direction.
-- """
-- needs = ["tcp", "tcp_info"]
-- lasts = "seconds"
-- uses = ["is_loopback", "netns_of", "rtt_looks", "rtt_sockets", "who"]
--
-- [params.floor_ms]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Milliseconds above the least round-trip time that nineteen of twenty values may reach, and that they must be three times as long: a delayed acknowledgement alone adds 40."
--
-- [params.values]
-- type = "BIGINT"
-- default = 6
-- doc = "Different values so far above the least one, as many as five seconds have at one sample a second: fewer may be answers that came late for another reason. Half as many must be no mere fading of one late answer, of which each answer in time takes an eighth."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds from the first of them to the last: a burst fills a queue for a moment, and that is what it is for."
--
-- [params.bulk_kb]
-- type = "DOUBLE"
-- default = 100.0
-- doc = "Kilobytes that who fills the queue must have sent meanwhile: at 50 ms of queue a link of 16 Mbit/s holds so much."
WITH lines AS (
  SELECT
    ns, pid, start_us, comm, peer_addr, min(min_rtt_us) AS min_rtt_us, max(max_us) AS max_us,
    greatest(min(min_rtt_us) + 1000 * any_value(p.floor_ms), 3 * min(min_rtt_us)) AS late_us
  FROM rtt_sockets CROSS JOIN params AS p
  WHERE NOT is_loopback(peer_addr)
  GROUP BY ns, pid, start_us, comm, peer_addr
  HAVING max(max_us) >= late_us
),
waiting AS MATERIALIZED (
  SELECT l.*, s.cookie
  FROM rtt_sockets AS s
  JOIN lines AS l
    ON l.ns = s.ns AND l.peer_addr = s.peer_addr AND l.pid IS NOT DISTINCT FROM s.pid
    AND l.start_us IS NOT DISTINCT FROM s.start_us AND l.comm IS NOT DISTINCT FROM s.comm
),
bloated AS MATERIALIZED (
  SELECT
    w.ns, w.pid, w.start_us, w.comm, w.peer_addr, w.min_rtt_us, w.late_us,
    quantile_cont(v.rtt_us, 0.95) AS p95_us
  FROM waiting AS w
  -- An idle connection keeps its last value, which counts once.
  JOIN (
    SELECT DISTINCT ns, cookie, rtt_us
    FROM rtt_looks SEMI JOIN waiting USING (ns, cookie)
    -- Where none waits, as a rule, no row is read.
    WHERE EXISTS (SELECT 1 FROM waiting)
  ) AS v USING (ns, cookie)
  CROSS JOIN params AS p
  GROUP BY w.ns, w.pid, w.start_us, w.comm, w.peer_addr, w.min_rtt_us, w.late_us, p.values
  HAVING p95_us >= w.late_us AND count(DISTINCT v.rtt_us) FILTER (WHERE v.rtt_us >= w.late_us) >= p.values
),
moments AS (
  -- Looks of the connections that are late at some time, from the first late one to the last.
  SELECT
    b.ns, b.pid, b.start_us, b.comm, b.peer_addr, b.min_rtt_us, b.p95_us, s.cookie, s.sample_time, s.t_us, s.bytes_acked,
    s.rtt_us >= b.late_us AS is_late, s.rtt_us,
    lag(s.rtt_us) OVER (PARTITION BY s.ns, s.cookie ORDER BY s.sample) AS before,
    coalesce(before - s.rtt_us >= (before - b.min_rtt_us) / 16, false) AS fades
  FROM bloated AS b
  JOIN sockets AS s
    ON s.ns = b.ns AND s.peer_addr = b.peer_addr AND s.pid IS NOT DISTINCT FROM b.pid
    AND s.start_us IS NOT DISTINCT FROM b.start_us
  WHERE s.netid = 'tcp' AND s.rtt_us > 0 AND EXISTS (SELECT 1 FROM bloated)
),
connections_of AS (
  SELECT
    ns, pid, start_us, comm, peer_addr, min_rtt_us, p95_us, cookie,
    max(bytes_acked) FILTER (WHERE is_late) - min(bytes_acked) FILTER (WHERE is_late) AS acked,
    min(sample_time) FILTER (WHERE is_late) AS since, max(sample_time) FILTER (WHERE is_late) AS until,
    min(t_us) FILTER (WHERE is_late) AS since_us, max(t_us) FILTER (WHERE is_late) AS until_us,
    count(DISTINCT rtt_us) FILTER (WHERE is_late AND NOT fades) AS stays
  FROM moments
  GROUP BY ns, pid, start_us, comm, peer_addr, min_rtt_us, p95_us, cookie
),
queued AS (
  SELECT
    ns, pid, start_us, comm, peer_addr, min_rtt_us, p95_us, sum(acked) AS acked, min(since) AS since, max(until) AS until,
    max(until_us) - min(since_us) AS lasted_us
  FROM connections_of CROSS JOIN params AS p
  GROUP BY ns, pid, start_us, comm, peer_addr, min_rtt_us, p95_us, p.seconds, p.values
  HAVING lasted_us >= 1000000.0 * p.seconds AND 2 * sum(stays) >= p.values
),
bulky AS (
  -- Several may fill it together.
  SELECT
    q.*, coalesce(who(comm, pid), 'an unknown process') AS named,
    acked >= 1000 * p.bulk_kb AND 4 * acked >= max(acked) OVER (PARTITION BY ns) AS is_bulk,
    row_number() OVER (PARTITION BY ns ORDER BY acked DESC, peer_addr, pid) AS place
  FROM queued AS q CROSS JOIN params AS p
),
judged AS (
  SELECT
    ns, any_value(pid) FILTER (WHERE place = 1) AS pid, any_value(comm) FILTER (WHERE place = 1) AS comm,
    any_value(peer_addr) FILTER (WHERE place = 1) AS peer_addr, any_value(min_rtt_us) FILTER (WHERE place = 1) AS min_rtt_us,
    any_value(p95_us) FILTER (WHERE place = 1) AS p95_us, any_value(since) FILTER (WHERE place = 1) AS since,
    any_value(until) FILTER (WHERE place = 1) AS until, sum(1.0 * acked / lasted_us) FILTER (WHERE is_bulk) AS pace,
    coalesce(2 * sum(acked) FILTER (WHERE is_bulk) >= sum(acked), false) AS fills,
    list(named ORDER BY place) FILTER (WHERE is_bulk) AS fillers,
    list(named || printf(' to %s, %.0f ms', peer_addr, p95_us / 1000.0) ORDER BY place) FILTER (
      WHERE place > 1 AND NOT coalesce(is_bulk, false)
    ) AS others
  FROM bulky
  GROUP BY ns
)
SELECT
  'warning' AS severity, CAST(1.0 - 1.0 * n.min_rtt_us / n.p95_us AS DOUBLE) AS score, n.peer_addr AS subject, netns_of(n.ns) AS netns,
  n.pid, n.comm, n.since, n.until, CAST(n.p95_us / 1000.0 AS DOUBLE) AS measured,
  CAST(greatest(n.min_rtt_us / 1000.0 + p.floor_ms, 3 * n.min_rtt_us / 1000.0) AS DOUBLE) AS threshold,
  concat(
    CASE
      WHEN n.fills
        THEN concat(
          array_to_string(n.fillers[1:3], ', '), CASE WHEN len(n.fillers) > 3 THEN printf(' and %,d more', len(n.fillers) - 3) END,
          CASE WHEN len(n.fillers) > 1 THEN ' keep' ELSE ' keeps' END, ' a queue on the way to ', n.peer_addr, ' full',
          printf(' with %,.0f kB/s', CAST(1000.0 * n.pace AS DOUBLE)), CASE WHEN len(n.fillers) > 1 THEN ' together' END
        )
      ELSE concat(
        'packets of ', coalesce(who(n.comm, n.pid), 'an unknown process'), ' to ', n.peer_addr, ' wait in a queue that others fill'
      )
    END,
    printf(
      ': round trips take %,.0f ms there (nineteen of twenty take less), the least was %.2f ms',
      CAST(n.p95_us / 1000.0 AS DOUBLE), CAST(n.min_rtt_us / 1000.0 AS DOUBLE)
    ),
    CASE WHEN len(n.others) > 0 THEN concat('; who waits too: ', array_to_string(n.others[1:3], ', ')) END,
    CASE WHEN len(n.others) > 3 THEN printf(' and %,d more', len(n.others) - 3) END
  ) AS sentence,
  'rtt' AS report
FROM judged AS n CROSS JOIN params AS p
