-- title = "Sockets per process, kind and state"
-- description = """
-- Who holds the sockets of this host, and whose number grows. Counts are at the first sample that
-- saw the kind of socket, at the worst one and at the last one; the process with the most sockets
-- in any one sample comes first. A socket that no process holds any more stands with the one that
-- held it last ("carried": TIME-WAIT, orphans), one that waits to be accepted with the process that
-- listens ("listener"). If neither is known it stands under "none"; one whose process the recorder
-- could not find stands under "unknown": it may belong to any of the others. The TCP subflows of
-- MPTCP connections are left out where these connections are recorded themselves: nothing is
-- counted twice.
-- """
--
-- [columns]
-- pid = "Process, the oldest of several that hold the socket."
-- comm = "Name of the process."
-- owner = "process: it holds them; carried: it held them last; listener: it listens on their port; none: no process holds them; unknown: the recorder found none."
-- netid = "Kind of socket, as ss prints it."
-- state = "State, as ss prints it."
-- first = "Sockets in the first sample that saw this kind."
-- peak = "Most sockets in one sample."
-- last = "Sockets in the last sample that saw this kind."
-- growth = "last less first."
-- peak_time = "First sample with the peak, UTC."
-- memory_peak = "Most buffer memory in one sample, bytes (skmem: r + the larger of t and w + f + o + bl)."
-- memory_last = "The same in the last sample."
-- share_percent = "Share of last in all sockets of this host."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "peak", type = "quantitative" }
-- y = { field = "comm", sort = "-x" }
-- color = { field = "state" }
WITH held AS (
  SELECT
    sample,
    sample_time,
    netid,
    CASE
      WHEN netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'unix'
      WHEN netid IN ('p_raw', 'p_dgr') THEN 'packet'
      WHEN netid = 'nl' THEN 'netlink'
      WHEN netid IN ('v_str', 'v_dgr', 'v_seq') THEN 'vsock'
      WHEN netid IN ('ti_st', 'ti_dg', 'ti_rd', 'ti_sq') THEN 'tipc'
      ELSE netid
    END AS kind,
    state,
    -- Two that are no process: -1 holds what has no process, -2 what none was found for.
    coalesce(
      pid,
      CASE WHEN inode = 0 OR (netid = 'nl' AND local_id = 0) THEN -1 ELSE -2 END
    ) AS holder,
    coalesce(start_us, -1) AS start_us,
    CASE
      WHEN pid IS NULL AND (inode = 0 OR (netid = 'nl' AND local_id = 0)) THEN 'none'
      WHEN pid IS NULL THEN 'unknown'
      WHEN owner_by IN ('carried', 'listener') THEN owner_by
      ELSE 'process'
    END AS owner,
    comm,
    rmem_alloc + fwd_alloc + optmem + backlog
      + CASE WHEN wmem_alloc > wmem_queued THEN wmem_alloc ELSE wmem_queued END AS memory
  FROM sockets
  CROSS JOIN (SELECT count(*) AS connections FROM sockets WHERE netid = 'mptcp') AS mptcp
  WHERE mptcp.connections = 0 OR subflow IS NULL OR NOT subflow
),
counted AS (
  SELECT
    holder,
    start_us,
    owner,
    netid,
    kind,
    state,
    sample,
    min(sample_time) AS sample_time,
    max(comm) AS comm,
    count(*) AS sockets,
    CAST(sum(memory) AS BIGINT) AS memory
  FROM held
  GROUP BY holder, start_us, owner, netid, kind, state, sample
),
steps AS (
  SELECT
    sample,
    CASE WHEN step LIKE '%6' THEN substr(step, 1, length(step) - 1) ELSE step END AS kind,
    CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END AS seen
  FROM samples
),
looks AS (
  SELECT sample, kind, seen
  FROM steps
  UNION ALL
  -- One step for all tables of a namespace without sockets, or of one whose turn it was not.
  SELECT steps.sample, kinds.kind, steps.seen
  FROM steps
  CROSS JOIN (SELECT DISTINCT kind FROM steps) AS kinds
  WHERE steps.kind = 'all'
),
seen AS (
  SELECT kind, sample
  FROM looks
  GROUP BY kind, sample
  HAVING min(seen) = 1
  UNION ALL
  -- A file of sockets alone does not say which tables were read: those of which it has rows.
  SELECT kinds.kind, alone.sample
  FROM (SELECT DISTINCT sample FROM counted) AS alone
  CROSS JOIN (SELECT DISTINCT kind FROM counted) AS kinds
  WHERE NOT EXISTS (SELECT 1 FROM steps)
),
ends AS (
  SELECT kind, min(sample) AS first_sample, max(sample) AS last_sample
  FROM seen
  GROUP BY kind
),
host AS (
  SELECT sum(counted.sockets) AS sockets
  FROM counted
  JOIN ends
    ON ends.kind = counted.kind
    AND ends.last_sample = counted.sample
),
held_at_once AS (
  SELECT holder, start_us, sample, sum(sockets) AS sockets
  FROM counted
  GROUP BY holder, start_us, sample
),
ranked AS (
  SELECT
    holder,
    start_us,
    row_number() OVER (ORDER BY max(sockets) DESC, holder, start_us) AS place
  FROM held_at_once
  GROUP BY holder, start_us
),
summed AS (
  SELECT
    c.holder,
    c.start_us,
    c.owner,
    c.netid,
    c.state,
    max_by(c.comm, c.sample) AS comm,
    -- Without a sample that saw this kind whole, neither end is known.
    CASE
      WHEN min(e.first_sample) IS NOT NULL
        THEN coalesce(max(CASE WHEN c.sample = e.first_sample THEN c.sockets END), 0)
    END AS first,
    max(c.sockets) AS peak,
    CASE
      WHEN min(e.last_sample) IS NOT NULL
        THEN coalesce(max(CASE WHEN c.sample = e.last_sample THEN c.sockets END), 0)
    END AS last,
    max(c.memory) AS memory_peak,
    max(CASE WHEN c.sample = e.last_sample THEN c.memory END) AS memory_last
  FROM counted AS c
  LEFT JOIN ends AS e
    ON e.kind = c.kind
  GROUP BY c.holder, c.start_us, c.owner, c.netid, c.state
),
peaks AS (
  SELECT c.holder, c.start_us, c.owner, c.netid, c.state, min(c.sample_time) AS peak_time
  FROM counted AS c
  JOIN summed AS s
    ON s.holder = c.holder
    AND s.start_us = c.start_us
    AND s.owner = c.owner
    AND s.netid = c.netid
    AND s.state = c.state
    AND s.peak = c.sockets
  GROUP BY c.holder, c.start_us, c.owner, c.netid, c.state
)
SELECT
  CASE WHEN s.holder >= 0 THEN s.holder END AS pid,
  s.comm AS comm,
  s.owner AS owner,
  s.netid AS netid,
  s.state AS state,
  s.first AS first,
  s.peak AS peak,
  s.last AS last,
  s.last - s.first AS growth,
  p.peak_time AS peak_time,
  s.memory_peak AS memory_peak,
  s.memory_last AS memory_last,
  round(100.0 * s.last / nullif(host.sockets, 0), 1) AS share_percent
FROM summed AS s
JOIN ranked AS r
  ON r.holder = s.holder
  AND r.start_us = s.start_us
JOIN peaks AS p
  ON p.holder = s.holder
  AND p.start_us = s.start_us
  AND p.owner = s.owner
  AND p.netid = s.netid
  AND p.state = s.state
CROSS JOIN host
CROSS JOIN params
WHERE params.top = 0 OR r.place <= params.top
ORDER BY r.place, s.netid, s.state, s.owner
