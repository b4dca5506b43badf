-- title = "Sockets per kind and state over time"
-- description = """
-- How many sockets of each kind were in each state, in equal slices of the time. A state that grows
-- from slice to slice and never falls is where to look next: CLOSE-WAIT is a process that does not
-- close, TIME-WAIT many short connections, SYN-SENT a peer that does not answer. Samples in which
-- the kernel's table could not be read whole count as unknown, never as zero: a slice with none
-- but such samples has no numbers. A kind that was never seen at all has no state.
-- """
--
-- [columns]
-- time = "First sample of the slice, UTC."
-- netid = "Kind of socket, as ss prints it; unix if no unix socket was seen at all."
-- state = "State, as ss prints it; nothing if the kind was never seen."
-- min = "Fewest sockets in a sample of the slice."
-- avg = "Mean of the samples of the slice."
-- max = "Most sockets in a sample of the slice."
-- last = "Sockets in the last sample of the slice that saw the table."
-- samples = "Samples of the slice that saw the table."
-- unknown = "Samples of the slice that did not see it, or not whole."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice; 0 makes ten slices of the whole time."
--
-- [chart]
-- mark = "area"
-- x = { field = "time", type = "temporal" }
-- y = { field = "max", type = "quantitative", stack = true }
-- color = { field = "state" }
-- row = { field = "netid" }
WITH counted AS (
  SELECT
    sample,
    netid,
    state,
    CASE WHEN netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'unix' ELSE netid END AS kind,
    min(t_us) AS t_us,
    min(sample_time) AS sample_time,
    count(*) AS sockets
  FROM sockets
  GROUP BY sample, netid, state
),
steps AS (
  SELECT
    sample,
    CASE
      WHEN step IN ('tcp', 'tcp6') THEN 'tcp'
      WHEN step IN ('udp', 'udp6') THEN 'udp'
      ELSE step
    END AS kind,
    t_us,
    sample_time,
    CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END AS seen
  FROM samples
  WHERE step <> 'owners'
),
moments AS (
  SELECT sample, kind, min(t_us) AS t_us, min(sample_time) AS sample_time, min(seen) AS seen
  FROM steps
  GROUP BY sample, kind
  UNION ALL
  -- A file of sockets alone does not say which tables were read: those of which it has rows.
  SELECT alone.sample, kinds.kind, alone.t_us, alone.sample_time, 1 AS seen
  FROM (
    SELECT sample, min(t_us) AS t_us, min(sample_time) AS sample_time
    FROM counted
    GROUP BY sample
  ) AS alone
  CROSS JOIN (SELECT DISTINCT kind FROM counted) AS kinds
  WHERE NOT EXISTS (SELECT 1 FROM steps)
),
span AS (
  SELECT min(t_us) AS start_us, max(t_us) AS end_us
  FROM moments
),
slicing AS (
  SELECT
    span.start_us,
    CASE
      WHEN params.interval > 0 THEN CAST(params.interval * 1000000 AS BIGINT)
      ELSE CAST(floor((span.end_us - span.start_us) / 10.0) AS BIGINT) + 1
    END AS wide_us
  FROM span
  CROSS JOIN params
),
sliced AS (
  SELECT
    m.sample,
    m.kind,
    m.t_us,
    m.sample_time,
    m.seen,
    (m.t_us - s.start_us) - (m.t_us - s.start_us) % s.wide_us AS slice
  FROM moments AS m
  CROSS JOIN slicing AS s
),
starts AS (
  SELECT slice, min(sample_time) AS time
  FROM sliced
  GROUP BY slice
),
series AS (
  SELECT DISTINCT kind, netid, state
  FROM counted
  UNION ALL
  SELECT kinds.kind, kinds.kind AS netid, CAST(NULL AS VARCHAR) AS state
  FROM (SELECT kind FROM moments GROUP BY kind HAVING max(seen) = 0) AS kinds
  WHERE NOT EXISTS (SELECT 1 FROM counted WHERE counted.kind = kinds.kind)
),
filled AS (
  SELECT
    sliced.slice,
    sliced.sample,
    series.netid,
    series.state,
    sliced.seen,
    CASE WHEN sliced.seen = 1 THEN coalesce(counted.sockets, 0) END AS sockets
  FROM sliced
  JOIN series
    ON series.kind = sliced.kind
  LEFT JOIN counted
    ON counted.sample = sliced.sample
    AND counted.netid = series.netid
    AND counted.state = series.state
)
SELECT
  min(starts.time) AS time,
  filled.netid AS netid,
  filled.state AS state,
  min(filled.sockets) AS min,
  round(avg(filled.sockets), 1) AS avg,
  max(filled.sockets) AS max,
  max_by(filled.sockets, CASE WHEN filled.seen = 1 THEN filled.sample END) AS last,
  count(filled.sockets) AS samples,
  CAST(sum(1 - filled.seen) AS BIGINT) AS unknown
FROM filled
JOIN starts
  ON starts.slice = filled.slice
GROUP BY filled.slice, filled.netid, filled.state
ORDER BY filled.netid, filled.state NULLS LAST, filled.slice
