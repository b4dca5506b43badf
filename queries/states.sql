-- title = "Sockets per kind and state over time"
-- description = """
-- How many sockets of each kind were in each state, in equal slices of the time. A state that grows
-- from slice to slice and never falls is where to look next: CLOSE-WAIT is a process that does not
-- close, TIME-WAIT many short connections, SYN-SENT a peer that does not answer. Samples in which
-- the kernel's table could not be read whole, in every namespace, count as unknown, never as zero: a
-- slice with none but such samples has no numbers. What there is most of comes first; a kind that
-- was never seen at all comes last, with no state and one row for the whole time. The TCP subflows
-- of MPTCP connections are left out where these connections are recorded themselves: nothing is
-- counted twice.
-- """
-- needs = ["sockets"]
-- uses = ["kind_of", "slice_of", "slice_width", "table_reads"]
-- ranks = ["time", "netid", "state", "max", "last", "min", "avg", "unknown", "samples"]
--
-- [columns]
-- time = "First sample of the slice, UTC."
-- netid = "Kind of socket, as ss prints it; the name of its table if no such socket was seen at all."
-- state = "State, as ss prints it; empty if the kind was never seen."
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
-- x = { field = "time", type = "temporal", bin = "binned" }
-- y = { field = "max", type = "quantitative", stack = true }
-- color = { field = "state" }
-- row = { field = "netid" }
WITH counted AS (
  SELECT sample, netid, state, kind_of(netid) AS kind, count(*) AS sockets
  FROM sockets CROSS JOIN (SELECT count(*) AS connections FROM sockets WHERE netid = 'mptcp') AS mptcp
  WHERE mptcp.connections = 0 OR subflow IS NULL OR NOT subflow
  GROUP BY sample, netid, state
),
moments AS (
  SELECT sample, kind, min(t_us) AS t_us, min(sample_time) AS sample_time, bool_and(whole) AS seen
  FROM table_reads
  WHERE kind IN (SELECT rtrim(step, '6') FROM samples UNION SELECT kind FROM counted)
  GROUP BY sample, kind
),
never AS (
  SELECT kind
  FROM moments ANTI JOIN counted USING (kind)
  GROUP BY kind
  HAVING NOT bool_or(seen)
),
sliced AS (
  SELECT
    m.*,
    CASE
      WHEN n.kind IS NOT NULL THEN 0
      ELSE slice_of(m.t_us, span.start_us, slice_width(span.start_us, span.end_us, params.interval))
    END AS slice
  FROM moments AS m
  CROSS JOIN (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM moments) AS span
  CROSS JOIN params
  LEFT JOIN never AS n ON n.kind = m.kind
),
starts AS (
  SELECT slice, min(sample_time) AS time
  FROM sliced
  GROUP BY slice
),
series AS (
  SELECT kind, netid, state, place
  FROM (
    SELECT kind, netid, state, row_number() OVER (ORDER BY max(sockets) DESC, netid, state) AS place
    FROM counted
    GROUP BY kind, netid, state
  ) AS ranked
  CROSS JOIN params
  WHERE params.top = 0 OR place <= params.top
  UNION ALL
  SELECT kind, kind AS netid, NULL AS state, NULL AS place
  FROM never
),
filled AS (
  SELECT
    sliced.slice, sliced.sample, series.netid, series.state, series.place, sliced.seen,
    CASE WHEN sliced.seen THEN coalesce(counted.sockets, 0) END AS sockets
  FROM sliced
  JOIN series USING (kind)
  LEFT JOIN counted
    ON counted.sample = sliced.sample AND counted.netid = series.netid AND counted.state = series.state
)
SELECT
  min(starts.time) AS time, netid, state, min(sockets) AS min, round(avg(sockets), 1) AS avg, max(sockets) AS max,
  max_by(sockets, sample) FILTER (WHERE seen) AS last,
  count(sockets) AS samples, count(*) FILTER (WHERE NOT seen) AS unknown
FROM filled JOIN starts USING (slice)
GROUP BY slice, netid, state, place
ORDER BY place NULLS LAST, netid, slice
