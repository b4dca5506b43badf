-- title = "Orphans: TCP sockets that no process holds any more"
-- description = """
-- Connections that a process closed and whose last data or FIN the peer has not acknowledged: the
-- kernel keeps them, with all that they still have to send, until the peer answers or their time is
-- over. Many that grow are peers that went away without a word, or a network that lost the way to
-- them; a few, short-lived, are everyday life. Above tcp_max_orphans, or out of memory, the kernel
-- resets them: the peer then never gets the end of what it was sent. The first line is the whole
-- host beside the kernel's own count and limit; the others say whose they were, most first. The
-- process is the one that held the connection last, if a sample had shown it before. What waits to be
-- accepted, TIME-WAIT and SYN-RECV have no process either and are no orphans.
-- """
-- needs = ["tcp"]
--
-- [columns]
-- time = "First sample of the slice, where by is time; else nothing."
-- pid = "Process that held them last; nothing if not known, for the host, and where by is not process."
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
-- doc = "process: a line per last owner and state; peer: per peer address and state; time: per state and slice of the time. Any other word is taken for process."
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
-- detail = { field = "comm" }
WITH asked AS (
  SELECT
    params.top,
    CASE WHEN params.by IN ('peer', 'time') THEN params.by ELSE 'process' END AS lines,
    params.interval AS slice_s
  FROM params
),
moments AS (
  SELECT sample, min(sample_time) AS sample_time, min(t_us) AS t_us
  FROM samples
  WHERE step IN ('tcp', 'tcp6', 'all')
  GROUP BY sample
  HAVING min(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) = 1
  UNION ALL
  -- A file of sockets alone does not say when the table was read.
  SELECT sample, min(sample_time) AS sample_time, min(t_us) AS t_us
  FROM sockets
  WHERE netid = 'tcp' AND NOT EXISTS (SELECT 1 FROM samples)
  GROUP BY sample
),
orphaned AS (
  SELECT
    s.netns,
    s.cookie,
    s.sample,
    s.sample_time,
    s.t_us,
    s.state,
    s.send_q,
    CASE WHEN a.lines = 'process' THEN s.pid END AS pid,
    CASE WHEN a.lines = 'process' THEN s.start_us END AS start_us,
    CASE WHEN a.lines = 'process' THEN s.comm END AS comm,
    CASE WHEN a.lines = 'peer' THEN s.peer_addr END AS peer_addr
  FROM sockets AS s
  CROSS JOIN asked AS a
  WHERE s.netid = 'tcp'
    AND s.inode = 0
    -- The socket of an MPTCP connection holds its subflows.
    AND (s.subflow IS NULL OR NOT s.subflow)
    AND s.state IN ('FIN-WAIT-1', 'FIN-WAIT-2', 'LAST-ACK', 'CLOSING')
    -- What is left of FIN-WAIT-2 then counts as TIME-WAIT.
    AND coalesce(s.timer, '') <> 'timewait'
),
span AS (
  SELECT min(t_us) AS start_us, max(t_us) AS end_us
  FROM (SELECT t_us FROM moments UNION ALL SELECT t_us FROM orphaned) AS times
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
looks AS (
  SELECT
    m.sample,
    m.sample_time,
    m.t_us - s.start_us - (m.t_us - s.start_us) % s.wide_us AS slice
  FROM moments AS m
  CROSS JOIN slicing AS s
),
slices AS (
  SELECT
    slice,
    min(sample_time) AS time,
    min(sample) AS first_sample,
    max(sample) AS last_sample
  FROM looks
  GROUP BY slice
),
ages AS (
  SELECT netns, cookie, max(t_us) - min(t_us) AS age_us
  FROM orphaned
  GROUP BY netns, cookie
),
counted AS (
  SELECT
    o.pid,
    o.start_us,
    o.peer_addr,
    o.state,
    o.sample,
    o.t_us - s.start_us - (o.t_us - s.start_us) % s.wide_us AS slice,
    max(o.comm) AS comm,
    min(o.sample_time) AS sample_time,
    count(*) AS sockets,
    sum(o.send_q) AS unsent,
    max(a.age_us) AS age_us
  FROM orphaned AS o
  JOIN ages AS a
    ON a.netns = o.netns
    AND a.cookie = o.cookie
  CROSS JOIN slicing AS s
  GROUP BY o.pid, o.start_us, o.peer_addr, o.state, o.sample, o.t_us, s.start_us, s.wide_us
),
named AS (
  SELECT
    c.*,
    dense_rank() OVER (ORDER BY c.pid, c.start_us, c.peer_addr, c.state) AS line
  FROM counted AS c
),
lined AS (
  SELECT line, slice, sample, sample_time, sockets, unsent, age_us
  FROM named
  UNION ALL
  -- Line 0 is the host, also in samples without any.
  SELECT
    0 AS line,
    l.slice,
    l.sample,
    l.sample_time,
    coalesce(sum(n.sockets), 0) AS sockets,
    coalesce(sum(n.unsent), 0) AS unsent,
    max(n.age_us) AS age_us
  FROM looks AS l
  LEFT JOIN named AS n
    ON n.sample = l.sample
  GROUP BY l.slice, l.sample, l.sample_time
),
names AS (
  SELECT
    line,
    max(pid) AS pid,
    max_by(comm, sample) AS comm,
    max(peer_addr) AS peer_addr,
    max(state) AS state,
    max(sockets) AS sockets
  FROM named
  GROUP BY line
  UNION ALL
  SELECT
    0 AS line,
    CAST(NULL AS INTEGER) AS pid,
    'host' AS comm,
    CAST(NULL AS VARCHAR) AS peer_addr,
    CAST(NULL AS VARCHAR) AS state,
    CAST(NULL AS BIGINT) AS sockets
),
ranked AS (
  SELECT
    names.*,
    row_number() OVER (ORDER BY CASE WHEN line = 0 THEN 0 ELSE 1 END, sockets DESC, line) AS place
  FROM names
),
summed AS (
  SELECT
    r.place,
    r.line,
    r.pid,
    r.comm,
    r.peer_addr,
    r.state,
    s.slice,
    s.time,
    coalesce(max(CASE WHEN l.sample = s.first_sample THEN l.sockets END), 0) AS first,
    coalesce(max(l.sockets), 0) AS peak,
    coalesce(max(CASE WHEN l.sample = s.last_sample THEN l.sockets END), 0) AS last,
    -- The first of the samples with the most.
    max_by(l.sample_time, l.sockets * 4294967296 - l.sample) AS peak_time,
    max(l.age_us) AS age_us,
    max(l.unsent) AS unsent
  FROM ranked AS r
  CROSS JOIN slices AS s
  CROSS JOIN asked AS a
  LEFT JOIN lined AS l
    ON l.line = r.line
    AND l.slice = s.slice
  WHERE r.place = 1 OR a.top = 0 OR a.lines = 'time' OR r.place <= a.top + 1
  GROUP BY r.place, r.line, r.pid, r.comm, r.peer_addr, r.state, s.slice, s.time
),
kernel AS (
  SELECT
    v.t_us - s.start_us - (v.t_us - s.start_us) % s.wide_us AS slice,
    max(v.value) AS orphans
  FROM counter_values AS v
  CROSS JOIN slicing AS s
  WHERE v.source = 'sockstat' AND v.name = 'TCP.orphan'
  GROUP BY v.t_us - s.start_us - (v.t_us - s.start_us) % s.wide_us
),
limits AS (
  SELECT TRY_CAST(max_by(value, t_us) AS BIGINT) AS orphans
  FROM settings
  WHERE name = 'net.ipv4.tcp_max_orphans'
),
changes AS (
  -- Counters before the scope too: a value holds until the next.
  SELECT
    sample,
    name,
    value - lag(value) OVER (
      PARTITION BY netns, name
      ORDER BY sample, CASE WHEN phase = 'after' THEN 1 ELSE 0 END, value NULLS FIRST
    ) AS more
  FROM raw.counters
  WHERE name IN (
    'TcpExt.TCPAbortOnMemory', 'TcpExt.TCPAbortOnTimeout', 'TcpExt.TCPAbortOnLinger',
    'TcpExt.TCPAbortOnClose'
  )
),
moved AS (
  SELECT
    c.name,
    CAST(sum(CASE WHEN i.slice IS NOT NULL AND c.more > 0 THEN c.more ELSE 0 END) AS BIGINT) AS growth,
    i.slice
  FROM changes AS c
  LEFT JOIN (
    SELECT v.sample, min(v.t_us - s.start_us - (v.t_us - s.start_us) % s.wide_us) AS slice
    FROM counters AS v
    CROSS JOIN slicing AS s
    GROUP BY v.sample
  ) AS i
    ON i.sample = c.sample
  GROUP BY c.name, i.slice
),
said AS (
  SELECT
    s.slice,
    concat(
      max(CASE WHEN m.name = 'TcpExt.TCPAbortOnMemory' AND m.growth > 0 THEN concat('; ', m.growth, ' reset for lack of memory or too many orphans') ELSE '' END),
      max(CASE WHEN m.name = 'TcpExt.TCPAbortOnTimeout' AND m.growth > 0 THEN concat('; ', m.growth, ' given up without an answer') ELSE '' END),
      max(CASE WHEN m.name = 'TcpExt.TCPAbortOnLinger' AND m.growth > 0 THEN concat('; ', m.growth, ' reset rather than kept in FIN-WAIT-2') ELSE '' END),
      max(CASE WHEN m.name = 'TcpExt.TCPAbortOnClose' AND m.growth > 0 THEN concat('; ', m.growth, ' reset with data unread') ELSE '' END)
    ) AS words
  FROM slices AS s
  LEFT JOIN moved AS m
    ON m.slice = s.slice
  WHERE EXISTS (SELECT 1 FROM moved)
  GROUP BY s.slice
)
SELECT
  CASE WHEN a.lines = 'time' THEN s.time END AS time,
  s.pid AS pid,
  s.comm AS comm,
  s.peer_addr AS peer_addr,
  s.state AS state,
  CAST(s.first AS BIGINT) AS first,
  CAST(s.peak AS BIGINT) AS peak,
  CAST(s.last AS BIGINT) AS last,
  CAST(s.last - s.first AS BIGINT) AS growth,
  s.peak_time AS peak_time,
  round(s.age_us / 1000000.0, 1) AS oldest_s,
  CAST(s.unsent AS BIGINT) AS unsent_peak_bytes,
  CASE WHEN s.line = 0 THEN k.orphans END AS kernel_peak,
  CASE WHEN s.line = 0 THEN m.orphans END AS max_orphans,
  CASE
    WHEN s.line > 0 THEN NULL
    WHEN k.orphans > s.peak THEN round(100.0 * k.orphans / nullif(m.orphans, 0), 1)
    ELSE round(100.0 * s.peak / nullif(m.orphans, 0), 1)
  END AS limit_percent,
  CASE
    WHEN s.line > 0 OR w.words IS NULL THEN NULL
    WHEN w.words = '' THEN 'nothing'
    ELSE substr(w.words, 3)
  END AS says
FROM summed AS s
LEFT JOIN kernel AS k
  ON k.slice = s.slice
LEFT JOIN said AS w
  ON w.slice = s.slice
CROSS JOIN limits AS m
CROSS JOIN asked AS a
ORDER BY s.place, s.slice
