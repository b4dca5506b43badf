-- title = "Sockets per process, kind and state"
-- description = """
-- Who holds the sockets of this host, and whose number grows. A process that uses half of the
-- descriptors it may have or more comes first, for it soon cannot open anything; then the process with the
-- most sockets in any one sample. Many CLOSE-WAIT that grow are connections it forgets to close
-- (read close_wait), growing ESTAB or UNCONN sockets that it opens and keeps, TIME-WAIT many short
-- connections (read time_wait). Where by is process there is one line per process, where it is time
-- one per slice of the time. A socket that no process holds any more is listed under the one that
-- held it last ("carried": TIME-WAIT, orphans), one that waits to be accepted under the process that
-- listens ("listener"). If neither is known it is under "none"; one whose process the recorder could
-- not find is under "unknown": it may belong to any of the others. The share of the limit counts files
-- and pipes, too, if the recording tells how many descriptors were open (report processes); if not, it
-- is at least what it says. The TCP subflows of MPTCP connections are left out where these connections are recorded themselves: nothing is counted twice.
-- """
-- needs = ["sockets"]
-- uses = ["descriptor_counts", "descriptor_trends", "netns_of", "process_counts", "slice_of", "slice_width_by", "table_reads"]
-- ranks = [
--   "time", "pid", "comm", "owner", "netid", "state", "peak", "last", "growth", "limit_percent", "fd_limit",
--   "limit_in_s", "first", "peak_time",
-- ]
--
-- [columns]
-- time = "First sample of the slice, where by is time; else empty."
-- pid = "Process, the oldest of several that hold the socket."
-- comm = "Name of the process."
-- owner = "process: it holds them; carried: it held them last; listener: it listens on their port; kernel: no process ever holds them; none: no process does; unknown: the recorder found none."
-- netid = "Kind of socket, as ss prints it; empty where by is process."
-- state = "State, as ss prints it; empty where by is process."
-- first = "Sockets in the first sample that saw this kind."
-- peak = "Most sockets in one sample."
-- last = "Sockets in the last sample that saw this kind."
-- growth = "last less first."
-- peak_time = "First sample with the peak."
-- share_percent = "Share of last in all sockets of this host."
-- fd_limit = "Descriptors the process may have open; empty if the recording does not say."
-- limit_percent = "Most of that limit that was in use in one sample, of all kinds."
-- limit_in_s = "Time until all of the limit is taken if it grows on as over the whole time; empty if no steady rise explains most of their ups and downs, or it does not go on."
-- memory_peak_bytes = "Most buffer memory in one sample (skmem: r + the larger of t and w + f + o + bl)."
-- memory_last_bytes = "The same in the last sample."
-- netns = "Inode number of the network namespace of its sockets; empty if they are in several."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes are listed; 0 lists all."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "kind"
-- choices = ["kind", "process", "time"]
-- doc = "kind: a line per process, kind of socket and state; process: one per process; time: one per process, kind, state and slice of the time."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice where by is time; 0 makes ten slices of the whole time."
--
-- [chart]
-- mark = "line"
-- x = { field = "time", type = "temporal", bin = "binned" }
-- y = { field = "peak", type = "quantitative" }
-- color = { field = "state" }
-- row = { field = "comm" }
-- detail = [{ field = "pid" }, { field = "netid" }, { field = "owner" }]
WITH counted AS MATERIALIZED (
  SELECT * FROM process_counts
),
seen AS (
  SELECT kind, sample, min(t_us) AS t_us
  FROM table_reads SEMI JOIN counted USING (kind)
  GROUP BY kind, sample
  HAVING bool_and(whole)
),
seen_whole AS (
  -- Samples that saw every kind that there is.
  SELECT sample, min(t_us) AS t_us
  FROM seen
  GROUP BY sample
  HAVING count(*) = (SELECT count(DISTINCT kind) FROM counted)
),
slicing AS (
  SELECT
    min(t_us) AS start_us,
    slice_width_by(any_value(params.by), min(t_us), max(t_us), any_value(params.interval)) AS wide_us
  FROM (SELECT t_us FROM table_reads UNION ALL SELECT t_us FROM counted) AS moments CROSS JOIN params
),
sliced AS (
  SELECT
    c.holder, c.start_us,
    CASE WHEN params.by = 'process' AND c.holder >= 0 THEN 'process' ELSE c.owner END AS owner,
    CASE WHEN params.by <> 'process' THEN c.netid END AS netid,
    CASE WHEN params.by <> 'process' THEN c.kind ELSE 'every' END AS kind,
    CASE WHEN params.by <> 'process' THEN c.state END AS state,
    c.sample, c.sample_time, slice_of(c.t_us, s.start_us, s.wide_us) AS slice, c.comm, c.sockets, c.memory
  FROM counted AS c CROSS JOIN slicing AS s CROSS JOIN params
),
moments AS (
  SELECT known.kind, known.sample, known.t_us, slice_of(known.t_us, s.start_us, s.wide_us) AS slice
  FROM (
    SELECT kind, sample, t_us FROM seen
    UNION ALL
    SELECT 'every' AS kind, sample, t_us FROM seen_whole
  ) AS known
  CROSS JOIN slicing AS s
),
ends AS (
  SELECT kind, slice, min(sample) AS first_sample, max(sample) AS last_sample
  FROM moments
  GROUP BY kind, slice
),
slices AS (
  -- Those in which no sample saw anything too.
  SELECT slice, min(sample_time) AS time
  FROM (
    SELECT r.sample_time, slice_of(r.t_us, s.start_us, s.wide_us) AS slice
    FROM table_reads AS r CROSS JOIN slicing AS s
    UNION ALL
    SELECT sample_time, slice
    FROM sliced
  ) AS times
  GROUP BY slice
),
limited AS (
  SELECT
    u.holder, u.start_us, u.slice, d.fd_limit, 100.0 * u.peak / d.fd_limit AS limit_percent,
    -- A process that has ended needs no forecast.
    CASE WHEN d.last_sample = e.last_sample THEN d.left_s END AS limit_in_s
  FROM (
    SELECT c.pid AS holder, c.start_us, slice_of(c.t_us, s.start_us, s.wide_us) AS slice, max(c.descriptors) AS peak
    FROM descriptor_counts AS c CROSS JOIN slicing AS s
    GROUP BY c.pid, c.start_us, slice
  ) AS u
  JOIN descriptor_trends AS d ON d.pid = u.holder AND d.start_us = u.start_us
  CROSS JOIN (SELECT max(sample) AS last_sample FROM counted) AS e
),
ranked AS (
  SELECT
    p.holder, p.start_us, p.comm, p.ns,
    row_number() OVER (
      ORDER BY
        CASE WHEN p.holder = -3 THEN 2 WHEN l.limit_percent >= 50 THEN 0 ELSE 1 END, p.sockets DESC, p.holder, p.start_us
    ) AS place
  FROM (
    SELECT
      holder, start_us, max_by(comm, sample) AS comm, max(sockets) AS sockets,
      CASE WHEN min(least_ns) = max(most_ns) THEN min(least_ns) END AS ns
    FROM (
      SELECT
        holder, start_us, sample, max(comm) AS comm, sum(sockets) AS sockets, min(least_ns) AS least_ns, max(most_ns) AS most_ns
      FROM counted
      GROUP BY holder, start_us, sample
    ) AS t
    GROUP BY holder, start_us
  ) AS p
  LEFT JOIN (
    SELECT holder, start_us, max(limit_percent) AS limit_percent
    FROM limited
    GROUP BY holder, start_us
  ) AS l USING (holder, start_us)
  CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
),
grouped AS (
  SELECT
    holder, start_us, owner, netid, kind, state, slice, sample, min(sample_time) AS sample_time,
    sum(sockets) AS sockets, CAST(sum(memory) AS BIGINT) AS memory
  FROM sliced
  GROUP BY holder, start_us, owner, netid, kind, state, slice, sample
),
picked AS (
  SELECT DISTINCT r.place, r.comm, r.ns, g.holder, g.start_us, g.owner, g.netid, g.kind, g.state
  FROM grouped AS g JOIN ranked AS r USING (holder, start_us)
),
summed AS (
  SELECT
    k.place, k.comm, k.ns, k.holder, k.start_us, k.owner, k.netid, k.state, s.slice, s.time,
    -- Without a sample that saw this kind whole, neither end is known.
    CASE WHEN e.first_sample IS NOT NULL THEN coalesce(max(g.sockets) FILTER (WHERE g.sample = e.first_sample), 0) END AS first,
    coalesce(max(g.sockets), CASE WHEN e.first_sample IS NOT NULL THEN 0 END) AS peak,
    CASE WHEN e.last_sample IS NOT NULL THEN coalesce(max(g.sockets) FILTER (WHERE g.sample = e.last_sample), 0) END AS last,
    -- The first of the samples with the most.
    max_by(g.sample_time, g.sockets * 4294967296 - g.sample) AS peak_time,
    max(g.memory) AS memory_peak, max(g.memory) FILTER (WHERE g.sample = e.last_sample) AS memory_last
  FROM picked AS k
  CROSS JOIN slices AS s
  LEFT JOIN ends AS e ON e.kind = k.kind AND e.slice = s.slice
  LEFT JOIN grouped AS g
    ON g.holder = k.holder AND g.start_us = k.start_us AND g.owner = k.owner AND g.kind = k.kind
    AND coalesce(g.netid, '') = coalesce(k.netid, '') AND coalesce(g.state, '') = coalesce(k.state, '') AND g.slice = s.slice
  GROUP BY k.place, k.comm, k.ns, k.holder, k.start_us, k.owner, k.netid, k.state, s.slice, s.time, e.first_sample, e.last_sample
),
host AS (
  SELECT g.slice, sum(g.sockets) AS sockets
  FROM grouped AS g JOIN ends AS e ON e.kind = g.kind AND e.slice = g.slice AND e.last_sample = g.sample
  GROUP BY g.slice
)
SELECT
  CASE WHEN params.by = 'time' THEN s.time END AS time, CASE WHEN s.holder >= 0 THEN s.holder END AS pid, s.comm, s.owner,
  s.netid, s.state, CAST(s.first AS BIGINT) AS first, CAST(s.peak AS BIGINT) AS peak, CAST(s.last AS BIGINT) AS last,
  CAST(s.last - s.first AS BIGINT) AS growth, s.peak_time, round(100.0 * s.last / nullif(h.sockets, 0), 1) AS share_percent,
  l.fd_limit, round(l.limit_percent, 1) AS limit_percent, round(l.limit_in_s, 1) AS limit_in_s,
  s.memory_peak AS memory_peak_bytes, s.memory_last AS memory_last_bytes, netns_of(s.ns) AS netns
FROM summed AS s
LEFT JOIN host AS h USING (slice)
LEFT JOIN limited AS l USING (holder, start_us, slice)
CROSS JOIN params
ORDER BY
  s.place, max(s.peak) OVER (PARTITION BY s.place, s.netid, s.state, s.owner) DESC, s.netid NULLS LAST,
  s.state NULLS LAST, s.owner, s.slice
