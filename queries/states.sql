-- title = "Sockets per kind and state over time"
-- description = """
-- How many sockets of each kind were in each state, in equal slices of the time. A state that grows
-- from slice to slice and never falls is where to look next: CLOSE-WAIT is a process that does not
-- close, TIME-WAIT many short connections, SYN-SENT a peer that does not answer. Samples in which
-- the kernel's table could not be read whole, in every namespace, count as unknown, never as zero:
-- a slice with none but such samples has no numbers. A kind that was never seen at all has no state,
-- and one row for the whole time. The TCP subflows of MPTCP connections are left out where these
-- connections are recorded themselves: nothing is counted twice.
-- """
-- needs = ["sockets"]
--
-- [columns]
-- time = "First sample of the slice, UTC."
-- netid = "Kind of socket, as ss prints it; the name of its table if no such socket was seen at all."
-- state = "State, as ss prints it; nothing if the kind was never seen."
-- min = "Fewest sockets in a sample of the slice."
-- avg = "Mean of the samples of the slice."
-- max = "Most sockets in a sample of the slice."
-- last = "Sockets in the last sample of the slice that saw the table."
-- samples = "Samples of the slice that saw the table."
-- unknown = "Samples of the slice that did not see it, or not whole."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many kinds and states are listed, those with most sockets in a sample; 0 lists all. What was never seen is always listed."
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
    CASE
      WHEN netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'unix'
      WHEN netid IN ('p_raw', 'p_dgr') THEN 'packet'
      WHEN netid = 'nl' THEN 'netlink'
      WHEN netid IN ('v_str', 'v_dgr', 'v_seq') THEN 'vsock'
      WHEN netid IN ('ti_st', 'ti_dg', 'ti_rd', 'ti_sq') THEN 'tipc'
      ELSE netid
    END AS kind,
    min(t_us) AS t_us,
    min(sample_time) AS sample_time,
    count(*) AS sockets
  FROM sockets
  CROSS JOIN (SELECT count(*) AS connections FROM sockets WHERE netid = 'mptcp') AS mptcp
  WHERE mptcp.connections = 0 OR subflow IS NULL OR NOT subflow
  GROUP BY sample, netid, state
),
steps AS (
  SELECT
    sample,
    CASE WHEN step LIKE '%6' THEN substr(step, 1, length(step) - 1) ELSE step END AS kind,
    t_us,
    sample_time,
    CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END AS seen
  FROM samples
),
kinds AS (
  SELECT DISTINCT kind
  FROM steps
  WHERE kind IN (
    'tcp', 'udp', 'udplite', 'mptcp', 'sctp', 'dccp', 'raw', 'ping', 'unix', 'packet', 'netlink',
    'vsock', 'xdp', 'tipc', 'smc'
  )
),
looks AS (
  SELECT steps.sample, steps.kind, steps.t_us, steps.sample_time, steps.seen
  FROM steps
  JOIN kinds
    ON kinds.kind = steps.kind
  UNION ALL
  -- One step for all tables of a namespace without sockets, or of one whose turn it was not.
  SELECT steps.sample, kinds.kind, steps.t_us, steps.sample_time, steps.seen
  FROM steps
  CROSS JOIN kinds
  WHERE steps.kind = 'all'
),
moments AS (
  SELECT sample, kind, min(t_us) AS t_us, min(sample_time) AS sample_time, min(seen) AS seen
  FROM looks
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
never AS (
  SELECT moments.kind
  FROM moments
  WHERE NOT EXISTS (SELECT 1 FROM counted WHERE counted.kind = moments.kind)
  GROUP BY moments.kind
  HAVING max(moments.seen) = 0
),
sliced AS (
  SELECT
    m.sample,
    m.kind,
    m.t_us,
    m.sample_time,
    m.seen,
    CASE
      WHEN n.kind IS NOT NULL THEN 0
      ELSE (m.t_us - s.start_us) - (m.t_us - s.start_us) % s.wide_us
    END AS slice
  FROM moments AS m
  CROSS JOIN slicing AS s
  LEFT JOIN never AS n
    ON n.kind = m.kind
),
starts AS (
  SELECT slice, min(sample_time) AS time
  FROM sliced
  GROUP BY slice
),
ranked AS (
  SELECT
    kind,
    netid,
    state,
    row_number() OVER (ORDER BY max(sockets) DESC, netid, state) AS place
  FROM counted
  GROUP BY kind, netid, state
),
series AS (
  SELECT ranked.kind, ranked.netid, ranked.state
  FROM ranked
  CROSS JOIN params
  WHERE params.top = 0 OR ranked.place <= params.top
  UNION ALL
  SELECT kind, kind AS netid, CAST(NULL AS VARCHAR) AS state
  FROM never
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
