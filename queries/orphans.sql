-- title = "Orphans: TCP sockets that no process holds any more"
-- description = """
-- Connections that a process closed and whose last data or FIN the peer has not acknowledged: the
-- kernel keeps them, with all that they still have to send, until the peer answers or they time out.
-- Many that grow are peers that went away without a word, or a network that lost the way to them; a
-- few, short-lived, are everyday life. Above tcp_max_orphans, or out of memory, the kernel resets
-- them: the peer then never gets the rest of what was sent. The first line is the whole host beside
-- the kernel's own count and limit; the others say whose they were, most first. The process is the
-- one that held the connection last, if a sample had shown it before. What waits to be accepted,
-- TIME-WAIT and SYN-RECV have no process either and are no orphans.
-- """
-- needs = ["tcp"]
-- uses = [
--   "counter_steps", "kernel_orphans", "larger", "max_orphans", "slice_of", "slice_width_by",
--   "table_reads",
-- ]
-- ranks = [
--   "time", "comm", "pid", "peer_addr", "state", "peak", "last", "growth", "limit_percent", "oldest_s",
--   "kernel_peak", "max_orphans", "says",
-- ]
--
-- [columns]
-- time = "First sample of the slice, where by is time; else empty."
-- pid = "Process that held them last; empty if not known, for the host, and where by is not process."
-- comm = "Name of the process; host: all of them."
-- peer_addr = "Peer they wait for, where by is peer."
-- state = "FIN-WAIT-1: the peer has not acknowledged the end; FIN-WAIT-2: it has, but not ended itself; LAST-ACK, CLOSING: both have ended, ours is not acknowledged. Nothing for all of them."
-- first = "Orphans in the first sample that read TCP."
-- peak = "Most orphans in one sample."
-- last = "Orphans in the last sample that read TCP."
-- growth = "last less first."
-- peak_time = "First sample with the peak."
-- oldest_s = "Longest time from the first sample that showed one of them as an orphan to the last: a lower bound of its age."
-- unsent_peak_bytes = "Most data of them in one sample that was not acknowledged (Send-Q)."
-- kernel_peak = "Most orphans by the kernel's own count, of all namespaces (sockstat), in the host's line only."
-- max_orphans = "Most orphans that the kernel keeps (net.ipv4.tcp_max_orphans), in the host's line only."
-- limit_percent = "Share of that limit that the larger of peak and kernel_peak takes."
-- says = "What the kernel did to connections in this time, by its own counters, in the host's line only."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many lines are listed below the host's; 0 lists all. By time the states are few, and all are listed."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "process"
-- choices = ["process", "peer", "time"]
-- doc = "process: a line per last owner and state; peer: per peer address and state; time: per state and slice of the time."
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
-- detail = { field = "comm" }
WITH moments AS (
  SELECT sample, min(sample_time) AS sample_time, min(t_us) AS t_us
  FROM table_reads
  WHERE kind = 'tcp'
  GROUP BY sample
  HAVING bool_and(whole)
),
orphaned AS (
  SELECT
    s.ns, s.cookie, s.sample, s.sample_time, s.t_us, s.state, s.send_q,
    CASE WHEN params.by = 'process' THEN s.pid END AS pid,
    CASE WHEN params.by = 'process' THEN s.start_us END AS start_us,
    CASE WHEN params.by = 'process' THEN s.comm END AS comm,
    CASE WHEN params.by = 'peer' THEN s.peer_addr END AS peer_addr
  FROM sockets AS s CROSS JOIN params
  WHERE s.netid = 'tcp'
    AND s.inode = 0
    -- The socket of an MPTCP connection holds its subflows.
    AND (s.subflow IS NULL OR NOT s.subflow)
    AND s.state IN ('FIN-WAIT-1', 'FIN-WAIT-2', 'LAST-ACK', 'CLOSING')
    -- What is left of FIN-WAIT-2 then counts as TIME-WAIT.
    AND coalesce(s.timer, '') <> 'timewait'
),
slicing AS (
  SELECT
    min(t_us) AS start_us,
    slice_width_by(any_value(params.by), min(t_us), max(t_us), any_value(params.interval)) AS wide_us
  FROM (SELECT t_us FROM moments UNION ALL SELECT t_us FROM orphaned) AS times CROSS JOIN params
),
looks AS (
  SELECT m.sample, m.sample_time, slice_of(m.t_us, s.start_us, s.wide_us) AS slice
  FROM moments AS m CROSS JOIN slicing AS s
),
slices AS (
  SELECT slice, min(sample_time) AS time, min(sample) AS first_sample, max(sample) AS last_sample
  FROM looks
  GROUP BY slice
),
ages AS (
  SELECT ns, cookie, max(t_us) - min(t_us) AS age_us
  FROM orphaned
  GROUP BY ns, cookie
),
counted AS (
  SELECT
    o.pid, o.start_us, o.peer_addr, o.state, o.sample, slice_of(o.t_us, s.start_us, s.wide_us) AS slice,
    dense_rank() OVER (ORDER BY o.pid, o.start_us, o.peer_addr, o.state) AS line,
    max(o.comm) AS comm, min(o.sample_time) AS sample_time, count(*) AS sockets, sum(o.send_q) AS unsent, max(a.age_us) AS age_us
  FROM orphaned AS o JOIN ages AS a USING (ns, cookie) CROSS JOIN slicing AS s
  GROUP BY o.pid, o.start_us, o.peer_addr, o.state, o.sample, slice
),
lined AS (
  SELECT line, slice, sample, sample_time, sockets, unsent, age_us
  FROM counted
  UNION ALL
  -- Line 0 is the host, also in samples without any.
  SELECT
    0 AS line, l.slice, l.sample, l.sample_time,
    coalesce(sum(n.sockets), 0) AS sockets, coalesce(sum(n.unsent), 0) AS unsent, max(n.age_us) AS age_us
  FROM looks AS l LEFT JOIN counted AS n ON n.sample = l.sample
  GROUP BY l.slice, l.sample, l.sample_time
),
ranked AS (
  SELECT *, row_number() OVER (ORDER BY line > 0, sockets DESC, line) AS place
  FROM (
    SELECT
      line, max(pid) AS pid, max_by(comm, sample) AS comm, max(peer_addr) AS peer_addr, max(state) AS state, max(sockets) AS sockets
    FROM counted
    GROUP BY line
    UNION ALL
    SELECT 0, NULL, 'host', NULL, NULL, NULL
  ) AS names
),
summed AS (
  SELECT
    r.place, r.line, r.pid, r.comm, r.peer_addr, r.state, s.slice, s.time,
    coalesce(max(l.sockets) FILTER (WHERE l.sample = s.first_sample), 0) AS first,
    coalesce(max(l.sockets), 0) AS peak,
    coalesce(max(l.sockets) FILTER (WHERE l.sample = s.last_sample), 0) AS last,
    -- The first of the samples with the most.
    max_by(l.sample_time, l.sockets * 4294967296 - l.sample) AS peak_time,
    max(l.age_us) AS age_us, max(l.unsent) AS unsent
  FROM ranked AS r CROSS JOIN slices AS s CROSS JOIN params
  LEFT JOIN lined AS l ON l.line = r.line AND l.slice = s.slice
  WHERE r.place = 1 OR params.top = 0 OR params.by = 'time' OR r.place <= params.top + 1
  GROUP BY r.place, r.line, r.pid, r.comm, r.peer_addr, r.state, s.slice, s.time
),
kernel AS (
  SELECT slice_of(o.t_us, s.start_us, s.wide_us) AS slice, max(o.orphans) AS orphans
  FROM kernel_orphans AS o CROSS JOIN slicing AS s
  GROUP BY slice
),
moved AS (
  SELECT c.name, slice_of(c.t_us, s.start_us, s.wide_us) AS slice, sum(c.growth) AS growth
  FROM counter_steps AS c CROSS JOIN slicing AS s
  WHERE c.name IN ('TcpExt.TCPAbortOnMemory', 'TcpExt.TCPAbortOnTimeout', 'TcpExt.TCPAbortOnLinger', 'TcpExt.TCPAbortOnClose')
  GROUP BY c.name, slice
),
said AS (
  SELECT
    s.slice,
    concat(
      max(concat('; ', m.growth, ' reset for lack of memory or too many orphans')) FILTER (WHERE m.name = 'TcpExt.TCPAbortOnMemory'),
      max(concat('; ', m.growth, ' given up without an answer')) FILTER (WHERE m.name = 'TcpExt.TCPAbortOnTimeout'),
      max(concat('; ', m.growth, ' reset rather than kept in FIN-WAIT-2')) FILTER (WHERE m.name = 'TcpExt.TCPAbortOnLinger'),
      max(concat('; ', m.growth, ' reset with data unread')) FILTER (WHERE m.name = 'TcpExt.TCPAbortOnClose')
    ) AS words
  FROM slices AS s LEFT JOIN moved AS m ON m.slice = s.slice AND m.growth > 0
  WHERE EXISTS (SELECT 1 FROM moved)
  GROUP BY s.slice
)
SELECT
  CASE WHEN params.by = 'time' THEN s.time END AS time, s.pid, s.comm, s.peer_addr, s.state,
  CAST(s.first AS BIGINT) AS first, CAST(s.peak AS BIGINT) AS peak, CAST(s.last AS BIGINT) AS last,
  CAST(s.last - s.first AS BIGINT) AS growth, s.peak_time, round(s.age_us / 1000000.0, 1) AS oldest_s,
  CAST(s.unsent AS BIGINT) AS unsent_peak_bytes,
  CASE WHEN s.line = 0 THEN k.orphans END AS kernel_peak,
  CASE WHEN s.line = 0 THEN m.most END AS max_orphans,
  CASE WHEN s.line = 0 THEN round(100.0 * larger(k.orphans, s.peak) / nullif(m.most, 0), 1) END AS limit_percent,
  CASE WHEN s.line = 0 THEN CASE WHEN w.words = '' THEN 'nothing' ELSE substr(w.words, 3) END END AS says
FROM summed AS s
LEFT JOIN kernel AS k USING (slice)
LEFT JOIN said AS w USING (slice)
CROSS JOIN max_orphans AS m
CROSS JOIN params
ORDER BY s.place, s.slice
