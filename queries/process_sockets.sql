-- title = "Sockets per process, kind and state"
-- description = """
-- Who holds the sockets of this host, and whose number grows. A process whose sockets take half of
-- its descriptors or more comes first, for it soon cannot open anything; then the process with the
-- most sockets in any one sample. Many CLOSE-WAIT that grow are connections it forgets to close
-- (read close_wait), growing ESTAB or UNCONN sockets that it opens and keeps, TIME-WAIT many short
-- connections (read time_wait). Where by is process there is one line per process, where it is time
-- one per slice of the time. A socket that no process holds any more stands with the one that held
-- it last ("carried": TIME-WAIT, orphans), one that waits to be accepted with the process that
-- listens ("listener"). If neither is known it stands under "none"; one whose process the recorder
-- could not find stands under "unknown": it may belong to any of the others. The share of the limit
-- is at least what it says: files and pipes take descriptors too, and so do sockets never bound nor
-- connected, which no table of the kernel shows. The TCP subflows of MPTCP connections are left out
-- where these connections are recorded themselves: nothing is counted twice.
-- """
-- needs = ["sockets"]
--
-- [columns]
-- time = "First sample of the slice, where by is time; else nothing."
-- pid = "Process, the oldest of several that hold the socket."
-- comm = "Name of the process."
-- owner = "process: it holds them; carried: it held them last; listener: it listens on their port; kernel: no process ever holds them; none: no process does; unknown: the recorder found none."
-- netid = "Kind of socket, as ss prints it; nothing where by is process."
-- state = "State, as ss prints it; nothing where by is process."
-- first = "Sockets in the first sample that saw this kind."
-- peak = "Most sockets in one sample."
-- last = "Sockets in the last sample that saw this kind."
-- growth = "last less first."
-- peak_time = "First sample with the peak."
-- share_percent = "Share of last in all sockets of this host."
-- fd_limit = "Descriptors the process may have open; nothing if the recording does not say."
-- limit_percent = "Most of that limit that sockets of the process took in one sample, of all kinds."
-- limit_in_s = "Time until its sockets take all of the limit if they grow on as in the last tenth of the time, three samples at least; nothing if they grow no more, or at less than half the pace of the last third."
-- memory_peak_bytes = "Most buffer memory in one sample (skmem: r + the larger of t and w + f + o + bl)."
-- memory_last_bytes = "The same in the last sample."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes are listed; 0 lists all."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "kind"
-- doc = "kind: a line per process, kind of socket and state; process: one per process; time: one per process, kind, state and slice of the time. Any other word is taken for kind."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice where by is time; 0 makes ten slices of the whole time."
--
-- [chart]
-- mark = "line"
-- x = { field = "time", type = "temporal" }
-- y = { field = "peak", type = "quantitative" }
-- color = { field = "state" }
-- row = { field = "comm" }
-- detail = [{ field = "pid" }, { field = "netid" }, { field = "owner" }]
WITH asked AS (
  SELECT
    params.top,
    CASE WHEN params.by IN ('process', 'time') THEN params.by ELSE 'kind' END AS lines,
    params.interval AS slice_s
  FROM params
),
held AS (
  SELECT
    sample,
    sample_time,
    t_us,
    netid,
    state,
    start_us,
    comm,
    CASE
      WHEN netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'unix'
      WHEN netid IN ('p_raw', 'p_dgr') THEN 'packet'
      WHEN netid = 'nl' THEN 'netlink'
      WHEN netid IN ('v_str', 'v_dgr', 'v_seq') THEN 'vsock'
      WHEN netid IN ('ti_st', 'ti_dg', 'ti_rd', 'ti_sq') THEN 'tipc'
      ELSE netid
    END AS kind,
    pid,
    CASE
      WHEN pid IS NOT NULL AND owner_by IN ('carried', 'listener') THEN owner_by
      WHEN pid IS NOT NULL THEN 'process'
      WHEN netid = 'nl' AND local_id = 0 THEN 'kernel'
      WHEN inode = 0 THEN 'none'
      ELSE 'unknown'
    END AS owner,
    rmem_alloc + fwd_alloc + optmem + backlog
      + CASE WHEN wmem_alloc > wmem_queued THEN wmem_alloc ELSE wmem_queued END AS memory
  FROM sockets
  CROSS JOIN (SELECT count(*) AS connections FROM sockets WHERE netid = 'mptcp') AS mptcp
  WHERE mptcp.connections = 0 OR subflow IS NULL OR NOT subflow
),
counted AS (
  SELECT
    -- Three that are no process.
    coalesce(pid, CASE owner WHEN 'none' THEN -1 WHEN 'unknown' THEN -2 ELSE -3 END) AS holder,
    coalesce(start_us, -1) AS start_us,
    owner,
    netid,
    kind,
    state,
    sample,
    min(sample_time) AS sample_time,
    min(t_us) AS t_us,
    max(comm) AS comm,
    count(*) AS sockets,
    CAST(sum(memory) AS BIGINT) AS memory
  FROM held
  GROUP BY pid, start_us, owner, netid, kind, state, sample
),
steps AS (
  SELECT
    sample,
    sample_time,
    t_us,
    CASE WHEN step LIKE '%6' THEN substr(step, 1, length(step) - 1) ELSE step END AS kind,
    CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END AS seen
  FROM samples
),
kinds AS (
  SELECT DISTINCT kind
  FROM counted
),
looks AS (
  SELECT sample, sample_time, t_us, kind, seen
  FROM steps
  UNION ALL
  -- One step for all tables of a namespace without sockets, or of one whose turn it was not.
  SELECT steps.sample, steps.sample_time, steps.t_us, kinds.kind, steps.seen
  FROM steps
  CROSS JOIN kinds
  WHERE steps.kind = 'all'
  UNION ALL
  -- A file of sockets alone does not say which tables were read: those of which it has rows.
  SELECT alone.sample, alone.sample_time, alone.t_us, kinds.kind, 1 AS seen
  FROM (
    SELECT sample, min(sample_time) AS sample_time, min(t_us) AS t_us
    FROM counted
    GROUP BY sample
  ) AS alone
  CROSS JOIN kinds
  WHERE NOT EXISTS (SELECT 1 FROM steps)
),
seen AS (
  SELECT looks.kind, looks.sample, min(looks.t_us) AS t_us
  FROM looks
  JOIN kinds
    ON kinds.kind = looks.kind
  GROUP BY looks.kind, looks.sample
  HAVING min(looks.seen) = 1
),
whole AS (
  -- Samples that saw every kind that there is.
  SELECT seen.sample, min(seen.t_us) AS t_us
  FROM seen
  GROUP BY seen.sample
  HAVING count(*) = (SELECT count(*) FROM kinds)
),
span AS (
  SELECT min(t_us) AS start_us, max(t_us) AS end_us
  FROM (SELECT t_us FROM looks UNION ALL SELECT t_us FROM counted) AS moments
),
slicing AS (
  SELECT
    span.start_us,
    CASE
      WHEN asked.lines <> 'time' THEN span.end_us - span.start_us + 1
      WHEN asked.slice_s > 0 THEN CAST(asked.slice_s * 1000000 AS BIGINT)
      ELSE CAST(floor((span.end_us - span.start_us) / 10.0) AS BIGINT) + 1
    END AS wide_us
  FROM span
  CROSS JOIN asked
),
sliced AS (
  SELECT
    c.holder,
    c.start_us,
    CASE WHEN a.lines = 'process' AND c.holder >= 0 THEN 'process' ELSE c.owner END AS owner,
    CASE WHEN a.lines <> 'process' THEN c.netid END AS netid,
    CASE WHEN a.lines <> 'process' THEN c.kind ELSE 'every' END AS kind,
    CASE WHEN a.lines <> 'process' THEN c.state END AS state,
    c.sample,
    c.sample_time,
    c.t_us - s.start_us - (c.t_us - s.start_us) % s.wide_us AS slice,
    c.comm,
    c.sockets,
    c.memory,
    CASE WHEN c.owner = 'process' THEN c.sockets END AS descriptors
  FROM counted AS c
  CROSS JOIN slicing AS s
  CROSS JOIN asked AS a
),
moments AS (
  SELECT
    known.kind,
    known.sample,
    known.t_us - s.start_us - (known.t_us - s.start_us) % s.wide_us AS slice
  FROM (
    SELECT kind, sample, t_us
    FROM seen
    UNION ALL
    SELECT 'every' AS kind, sample, t_us
    FROM whole
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
  SELECT times.slice, min(times.sample_time) AS time
  FROM (
    SELECT sample_time, t_us - s.start_us - (t_us - s.start_us) % s.wide_us AS slice
    FROM looks
    CROSS JOIN slicing AS s
    UNION ALL
    SELECT sample_time, slice
    FROM sliced
  ) AS times
  GROUP BY times.slice
),
processes AS (
  SELECT
    t.holder,
    t.start_us,
    max_by(t.comm, t.sample) AS comm,
    max(t.sockets) AS sockets
  FROM (
    SELECT holder, start_us, sample, max(comm) AS comm, sum(sockets) AS sockets
    FROM counted
    GROUP BY holder, start_us, sample
  ) AS t
  GROUP BY t.holder, t.start_us
),
limits AS (
  SELECT pid, start_us, max_by(fd_limit, t_us) AS fd_limit
  FROM owners
  WHERE fd_limit > 0
  GROUP BY pid, start_us
),
tables AS (
  SELECT holder, start_us, slice, sample, sum(descriptors) AS descriptors
  FROM sliced
  WHERE holder >= 0
  GROUP BY holder, start_us, slice, sample
),
windows AS (
  -- The last tenth and the last third of the samples that saw every kind, three at least.
  SELECT
    slice,
    CASE
      WHEN third_last_us < end_us - (end_us - start_us) / 10.0 THEN third_last_us
      ELSE end_us - (end_us - start_us) / 10.0
    END AS recent_us,
    CASE
      WHEN third_last_us < end_us - (end_us - start_us) / 3.0 THEN third_last_us
      ELSE end_us - (end_us - start_us) / 3.0
    END AS former_us
  FROM (
    SELECT
      slice,
      min(t_us) AS start_us,
      max(t_us) AS end_us,
      min(CASE WHEN place <= 3 THEN t_us END) AS third_last_us
    FROM (
      SELECT
        moments.slice,
        whole.t_us,
        row_number() OVER (PARTITION BY moments.slice ORDER BY whole.sample DESC) AS place
      FROM whole
      JOIN moments
        ON moments.sample = whole.sample
        AND moments.kind = 'every'
    ) AS placed
    GROUP BY slice
  ) AS ends_of_slices
),
uses AS (
  -- Growth is told of samples that saw every kind; a process that has ended needs no forecast.
  SELECT
    t.holder,
    t.start_us,
    t.slice,
    max(t.descriptors) AS peak,
    max_by(t.descriptors, w.sample) AS last,
    regr_slope(CASE WHEN w.t_us >= v.recent_us THEN t.descriptors END, (w.t_us - s.start_us) / 1000000.0) AS slope,
    regr_slope(CASE WHEN w.t_us >= v.former_us THEN t.descriptors END, (w.t_us - s.start_us) / 1000000.0)
      AS former_slope,
    max(w.sample) AS last_sample
  FROM tables AS t
  LEFT JOIN whole AS w
    ON w.sample = t.sample
  LEFT JOIN windows AS v
    ON v.slice = t.slice
  CROSS JOIN slicing AS s
  GROUP BY t.holder, t.start_us, t.slice
),
limited AS (
  SELECT
    u.holder,
    u.start_us,
    u.slice,
    l.fd_limit,
    100.0 * u.peak / l.fd_limit AS limit_percent,
    CASE
      WHEN u.slope > 0 AND 2 * u.slope >= u.former_slope AND u.last_sample = e.last_sample
        THEN (l.fd_limit - u.last) / u.slope
    END AS limit_in_s
  FROM uses AS u
  JOIN limits AS l
    ON l.pid = u.holder
    AND l.start_us = u.start_us
  CROSS JOIN (SELECT max(sample) AS last_sample FROM whole) AS e
),
ranked AS (
  SELECT
    p.holder,
    p.start_us,
    p.comm,
    row_number() OVER (
      ORDER BY
        CASE WHEN p.holder = -3 THEN 2 WHEN l.limit_percent >= 50 THEN 0 ELSE 1 END,
        p.sockets DESC,
        p.holder,
        p.start_us
    ) AS place
  FROM processes AS p
  LEFT JOIN (
    SELECT holder, start_us, max(limit_percent) AS limit_percent
    FROM limited
    GROUP BY holder, start_us
  ) AS l
    ON l.holder = p.holder
    AND l.start_us = p.start_us
),
grouped AS (
  SELECT
    holder,
    start_us,
    owner,
    netid,
    kind,
    state,
    slice,
    sample,
    min(sample_time) AS sample_time,
    sum(sockets) AS sockets,
    CAST(sum(memory) AS BIGINT) AS memory
  FROM sliced
  GROUP BY holder, start_us, owner, netid, kind, state, slice, sample
),
chosen AS (
  SELECT DISTINCT r.place, r.comm, g.holder, g.start_us, g.owner, g.netid, g.kind, g.state
  FROM grouped AS g
  JOIN ranked AS r
    ON r.holder = g.holder
    AND r.start_us = g.start_us
  CROSS JOIN asked
  WHERE asked.top = 0 OR r.place <= asked.top
),
summed AS (
  SELECT
    k.place,
    k.comm,
    k.holder,
    k.start_us,
    k.owner,
    k.netid,
    k.state,
    s.slice,
    s.time,
    -- Without a sample that saw this kind whole, neither end is known.
    CASE
      WHEN e.first_sample IS NOT NULL
        THEN coalesce(max(CASE WHEN g.sample = e.first_sample THEN g.sockets END), 0)
    END AS first,
    coalesce(max(g.sockets), CASE WHEN e.first_sample IS NOT NULL THEN 0 END) AS peak,
    CASE
      WHEN e.last_sample IS NOT NULL
        THEN coalesce(max(CASE WHEN g.sample = e.last_sample THEN g.sockets END), 0)
    END AS last,
    -- The first of the samples with the most.
    max_by(g.sample_time, g.sockets * 4294967296 - g.sample) AS peak_time,
    max(g.memory) AS memory_peak,
    max(CASE WHEN g.sample = e.last_sample THEN g.memory END) AS memory_last
  FROM chosen AS k
  CROSS JOIN slices AS s
  LEFT JOIN ends AS e
    ON e.kind = k.kind
    AND e.slice = s.slice
  LEFT JOIN grouped AS g
    ON g.holder = k.holder
    AND g.start_us = k.start_us
    AND g.owner = k.owner
    AND g.kind = k.kind
    AND coalesce(g.netid, '') = coalesce(k.netid, '')
    AND coalesce(g.state, '') = coalesce(k.state, '')
    AND g.slice = s.slice
  GROUP BY
    k.place, k.comm, k.holder, k.start_us, k.owner, k.netid, k.state, s.slice, s.time,
    e.first_sample, e.last_sample
),
host AS (
  SELECT g.slice, sum(g.sockets) AS sockets
  FROM grouped AS g
  JOIN ends AS e
    ON e.kind = g.kind
    AND e.slice = g.slice
    AND e.last_sample = g.sample
  GROUP BY g.slice
)
SELECT
  CASE WHEN a.lines = 'time' THEN s.time END AS time,
  CASE WHEN s.holder >= 0 THEN s.holder END AS pid,
  s.comm AS comm,
  s.owner AS owner,
  s.netid AS netid,
  s.state AS state,
  CAST(s.first AS BIGINT) AS first,
  CAST(s.peak AS BIGINT) AS peak,
  CAST(s.last AS BIGINT) AS last,
  CAST(s.last - s.first AS BIGINT) AS growth,
  s.peak_time AS peak_time,
  round(100.0 * s.last / nullif(h.sockets, 0), 1) AS share_percent,
  l.fd_limit AS fd_limit,
  round(l.limit_percent, 1) AS limit_percent,
  round(l.limit_in_s, 1) AS limit_in_s,
  s.memory_peak AS memory_peak_bytes,
  s.memory_last AS memory_last_bytes
FROM summed AS s
LEFT JOIN host AS h
  ON h.slice = s.slice
LEFT JOIN limited AS l
  ON l.holder = s.holder
  AND l.start_us = s.start_us
  AND l.slice = s.slice
CROSS JOIN asked AS a
ORDER BY
  s.place,
  max(s.peak) OVER (PARTITION BY s.place, s.netid, s.state, s.owner) DESC,
  s.netid NULLS LAST,
  s.state NULLS LAST,
  s.owner,
  s.slice
