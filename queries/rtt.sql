-- title = "Round-trip times"
-- description = """
-- How long packets take to each peer and back, per process that talks to it; those whose time rises
-- most above the least one come first. The least time is the distance; what comes on top is waiting.
-- bloated: nineteen of twenty are within p95_us, and that is more than floor_ms above the least time
-- and three times as long: packets wait in a queue on the way (bufferbloat), mostly one that a busy
-- transfer fills; look for it with queue_growth, and by = socket. jitter: only some are so late.
-- far: the least time itself is above the floor; use fewer round trips, that is, keep connections.
-- ok: neither. Ratios alone mean nothing: over loopback the least time is a few microseconds, and
-- one late answer makes it a ratio of hundreds. Times are the kernel's smoothed ones. An idle
-- connection keeps its last one, so every value that a connection showed counts once, however long
-- it stood; connections that no sample showed count with the last one they had. Read retransmits
-- beside it.
-- """
-- needs = ["tcp"]
-- uses = ["endpoint", "netns_of", "rtt_sockets", "rtt_values"]
-- ranks = [
--   "verdict", "comm", "pid", "peer", "p50_us", "p95_us", "max_us", "min_rtt_us", "rise_us", "connections",
--   "measured",
-- ]
--
-- [columns]
-- verdict = "bloated, jitter, far or ok, as above."
-- comm = "Name of the process that holds the sockets."
-- pid = "Process that holds them."
-- peer = "Peer address, by socket with its port; empty by process."
-- connections = "TCP connections with a round-trip time."
-- measured = "Different values they showed."
-- min_rtt_us = "Least round-trip time, by the kernel's own minimum where it tells one."
-- p50_us = "Median of the values."
-- p95_us = "Nineteen of twenty values are at most so long."
-- max_us = "Longest."
-- rise_us = "p95_us less min_rtt_us."
-- jitter_p50_us = "Median of the mean deviation (rttvar)."
-- peak_time = "First sample with max_us; of a connection that no sample showed, when it was closed."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot; by socket only."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "peer"
-- choices = ["peer", "process", "socket"]
-- doc = "What a row is: peer (a process and a peer address), process or socket."
--
-- [params.floor_ms]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Milliseconds below which no time and no rise is remarked upon. 50, because a delayed acknowledgement alone adds 40."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "p95_us", type = "quantitative" }
-- y = { field = "peer", sort = "-x" }
-- color = { field = "verdict" }
WITH numbered AS (
  SELECT
    h.ns, h.cookie, h.pid, h.start_us, h.comm, h.min_rtt_us, h.max_us, h.peak_us, params.top,
    1000 * params.floor_ms AS floor_us,
    CASE WHEN params.by = 'socket' THEN h.cookie END AS row_cookie,
    CASE WHEN params.by <> 'process' THEN h.peer_addr END AS row_peer_addr,
    CASE WHEN params.by = 'socket' THEN h.peer_port END AS row_peer_port,
    dense_rank() OVER (ORDER BY h.ns, h.pid, h.start_us, h.comm, row_cookie, row_peer_addr, row_peer_port) AS line
  FROM rtt_sockets AS h CROSS JOIN params
),
lines AS (
  SELECT
    line, ns, pid, start_us, comm, row_cookie, row_peer_addr, row_peer_port, top, floor_us,
    count(*) AS connections, min(min_rtt_us) AS min_rtt_us, max(max_us) AS max_us
  FROM numbered
  GROUP BY line, ns, pid, start_us, comm, row_cookie, row_peer_addr, row_peer_port, top, floor_us
),
peaks AS (
  SELECT line, min(peak_us) AS peak_us
  FROM numbered JOIN lines USING (line, max_us)
  GROUP BY line
),
measures AS (
  SELECT n.line, 'rtt' AS kind, shown.rtt_us AS value, count(*) AS often
  FROM rtt_values AS shown JOIN numbered AS n USING (ns, cookie)
  GROUP BY n.line, shown.rtt_us
  UNION ALL
  SELECT n.line, 'jitter' AS kind, shown.rttvar_us AS value, count(*) AS often
  FROM rtt_values AS shown JOIN numbered AS n USING (ns, cookie)
  WHERE shown.rttvar_us IS NOT NULL
  GROUP BY n.line, shown.rttvar_us
),
counted AS (
  -- Percentiles by counting up: percentile_cont would hold every value in memory.
  SELECT
    line, kind, value,
    sum(often) OVER (PARTITION BY line, kind ORDER BY value) AS so_far,
    sum(often) OVER (PARTITION BY line, kind) AS measured
  FROM measures
),
bounds AS (
  SELECT
    line, kind, max(measured) AS measured,
    min(value) FILTER (WHERE so_far > floor(0.5 * (measured - 1))) AS p50_below,
    min(value) FILTER (WHERE so_far > ceil(0.5 * (measured - 1))) AS p50_above,
    min(value) FILTER (WHERE so_far > floor(0.95 * (measured - 1))) AS p95_below,
    min(value) FILTER (WHERE so_far > ceil(0.95 * (measured - 1))) AS p95_above
  FROM counted
  GROUP BY line, kind
),
percentiles AS (
  SELECT
    line, kind, CAST(measured AS BIGINT) AS measured,
    p50_below + (0.5 * (measured - 1) - floor(0.5 * (measured - 1))) * (p50_above - p50_below) AS p50_us,
    p95_below + (0.95 * (measured - 1) - floor(0.95 * (measured - 1))) * (p95_above - p95_below) AS p95_us
  FROM bounds
),
ranked AS (
  SELECT
    lines.*, make_timestamp(peaks.peak_us) AS peak_time, r.measured, r.p50_us, r.p95_us, j.p50_us AS jitter_p50_us,
    row_number() OVER (
      ORDER BY r.p95_us - min_rtt_us DESC, max_us DESC, ns, pid NULLS LAST, start_us NULLS LAST,
        comm NULLS LAST, row_peer_addr NULLS LAST, row_cookie NULLS LAST
    ) AS place
  FROM lines
  JOIN peaks USING (line)
  JOIN percentiles AS r ON r.line = lines.line AND r.kind = 'rtt'
  LEFT JOIN percentiles AS j ON j.line = lines.line AND j.kind = 'jitter'
  QUALIFY top = 0 OR place <= top
)
SELECT
  CASE
    WHEN p95_us - min_rtt_us >= floor_us AND p95_us >= 3 * min_rtt_us THEN 'bloated'
    WHEN max_us - min_rtt_us >= floor_us AND max_us >= 3 * min_rtt_us THEN 'jitter'
    WHEN min_rtt_us >= floor_us THEN 'far'
    ELSE 'ok'
  END AS verdict,
  comm, pid, endpoint(row_peer_addr, row_peer_port) AS peer, connections, measured, min_rtt_us,
  CAST(round(p50_us) AS BIGINT) AS p50_us, CAST(round(p95_us) AS BIGINT) AS p95_us, max_us,
  CAST(round(p95_us - min_rtt_us) AS BIGINT) AS rise_us, CAST(round(jitter_p50_us) AS BIGINT) AS jitter_p50_us,
  peak_time, netns_of(ns) AS netns, row_cookie AS cookie
FROM ranked
ORDER BY place
