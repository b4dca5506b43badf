-- title = "Handshakes waiting for their last packet"
-- description = """
-- Connections in SYN-RECV per listening address and port, in equal slices of the time, the port with
-- most of them first. They wait for the client's last packet, and the kernel keeps at most as many
-- as the listener's backlog says; without SYN cookies only three quarters of
-- net.ipv4.tcp_max_syn_backlog for clients it does not know. full: it kept as many as it may; more
-- SYNs are dropped or answered with cookies. accept queue: the accept queue was full, so that
-- handshakes cannot end; read listen_queues first. unanswered: the kernel had to repeat its answer
-- to half of them or more; the clients' addresses are forged (a SYN flood), or packets are lost on
-- the way. cookies, drops: the kernel sent cookies, or dropped SYNs, somewhere in this namespace.
-- ok: handshakes end as they should. No row: no sample saw one unfinished, and the counters stand
-- still. A slice without a sample that saw the whole TCP table is left out.
-- """
-- needs = ["tcp"]
-- uses = [
--   "counter_steps", "counter_values", "door_looks", "endpoint", "handshakes", "netns_of",
--   "slice_of", "slice_width", "sysctls", "tcp_reads",
-- ]
-- ranks = [
--   "time", "verdict", "comm", "pid", "local", "syn_recv_max", "backlog", "fill_percent", "dropped", "cookies_sent",
--   "cookies_answered", "accept_full",
-- ]
--
-- [columns]
-- time = "First sample of the slice, UTC."
-- verdict = "full, accept queue, unanswered, drops, cookies or ok, as above."
-- comm = "Name of the process that listens; empty if no listener was seen."
-- pid = "Process that listened in that slice, the last one of it."
-- local = "Address and port it listens on."
-- syn_recv_max = "Most connections in SYN-RECV in a sample of the slice."
-- syn_recv_avg = "Mean of its samples."
-- backlog = "The listener's backlog; the sum, if several listen on the same address and port."
-- fill_percent = "Share of syn_recv_max in what the kernel keeps."
-- repeated_percent = "Share of those in SYN-RECV to which the kernel had repeated its answer."
-- accept_full = "Samples of the slice that found the accept queue full."
-- dropped = "SYNs dropped as too many waited, in the whole namespace (TcpExt.TCPReqQFullDrop)."
-- cookies_sent = "SYN cookies sent, in the whole namespace (TcpExt.SyncookiesSent)."
-- cookies_answered = "SYN cookies that came back, which only real clients do (TcpExt.SyncookiesRecv)."
-- samples = "Samples of the slice that saw the TCP table."
-- netns = "Inode number of the network namespace."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice; 0 makes ten slices of the whole time."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many listening addresses and ports are listed; 0 lists all."
--
-- [chart]
-- mark = "line"
-- x = { field = "time", type = "temporal", bin = "binned" }
-- y = { field = "syn_recv_max", type = "quantitative" }
-- color = { field = "local" }
WITH looks AS MATERIALIZED (
  SELECT * FROM door_looks
),
sliced AS (
  SELECT
    m.ns, m.sample, m.sample_time,
    slice_of(m.t_us, span.start_us, slice_width(span.start_us, span.end_us, params.interval)) AS slice
  FROM tcp_reads AS m
  CROSS JOIN (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM tcp_reads) AS span
  CROSS JOIN params
),
waiting AS MATERIALIZED (
  SELECT
    ns, door_addr AS local_addr, local_port, sample, CAST(sum(waiting) AS BIGINT) AS waiting, CAST(sum(repeated) AS BIGINT) AS repeated
  FROM handshakes
  GROUP BY ns, door_addr, local_port, sample
),
counted AS (
  SELECT
    ns, sample,
    sum(growth) FILTER (WHERE name = 'TcpExt.TCPReqQFullDrop') AS dropped,
    sum(growth) FILTER (WHERE name = 'TcpExt.SyncookiesSent') AS cookies_sent,
    sum(growth) FILTER (WHERE name = 'TcpExt.SyncookiesRecv') AS cookies_answered
  FROM (
    SELECT ns, sample, name, growth FROM counter_steps
    UNION ALL
    -- A counter that stands still is known, too.
    SELECT ns, sample, name, 0 AS growth FROM counter_values
  ) AS steps
  WHERE name IN ('TcpExt.TCPReqQFullDrop', 'TcpExt.SyncookiesSent', 'TcpExt.SyncookiesRecv')
  GROUP BY ns, sample
),
ranked AS (
  SELECT
    coalesce(d.ns, w.ns) AS ns, coalesce(d.local_addr, w.local_addr) AS local_addr,
    coalesce(d.local_port, w.local_port) AS local_port, d.backlog,
    row_number() OVER (
      ORDER BY coalesce(w.peak, 0) DESC, coalesce(d.ns, w.ns), coalesce(d.local_port, w.local_port),
        coalesce(d.local_addr, w.local_addr)
    ) AS place
  FROM (
    -- Several sockets may listen on one address and port.
    SELECT ns, local_addr, local_port, any_value(backlog) AS backlog
    FROM looks
    WHERE is_last
    GROUP BY ns, local_addr, local_port
  ) AS d
  FULL JOIN (
    SELECT ns, local_addr, local_port, max(waiting) AS peak
    FROM waiting
    GROUP BY ns, local_addr, local_port
  ) AS w ON w.ns = d.ns AND w.local_addr = d.local_addr AND w.local_port = d.local_port
  LEFT JOIN (
    SELECT ns, sum(coalesce(dropped, 0) + coalesce(cookies_sent, 0)) AS events
    FROM counted
    GROUP BY ns
  ) AS c ON c.ns = coalesce(d.ns, w.ns)
  WHERE w.peak > 0 OR c.events > 0
),
limits AS (
  -- Without cookies the last quarter is kept for clients that the kernel knows.
  SELECT
    ns,
    CASE
      WHEN max(value) FILTER (WHERE name = 'net.ipv4.tcp_syncookies') = '0'
        THEN 0.75 * max(TRY_CAST(value AS BIGINT)) FILTER (WHERE name = 'net.ipv4.tcp_max_syn_backlog')
    END AS most
  FROM sysctls
  WHERE name IN ('net.ipv4.tcp_syncookies', 'net.ipv4.tcp_max_syn_backlog')
  GROUP BY ns
),
filled AS (
  SELECT
    r.place, s.slice, min(s.sample_time) AS time,
    max_by(l.pid_then, s.sample) AS pid, max_by(l.comm_then, s.sample) AS comm,
    max(coalesce(w.waiting, 0)) AS syn_recv_max, avg(coalesce(w.waiting, 0)) AS syn_recv_avg,
    100.0 * sum(w.repeated) / nullif(sum(w.waiting), 0) AS repeated_percent,
    count(*) FILTER (WHERE l.accept_full) AS accept_full,
    sum(c.dropped) AS dropped, sum(c.cookies_sent) AS cookies_sent, sum(c.cookies_answered) AS cookies_answered,
    count(*) AS samples
  FROM ranked AS r
  CROSS JOIN params
  JOIN sliced AS s USING (ns)
  LEFT JOIN waiting AS w
    ON w.ns = r.ns AND w.local_addr = r.local_addr AND w.local_port = r.local_port AND w.sample = s.sample
  LEFT JOIN looks AS l
    ON l.ns = r.ns AND l.local_addr = r.local_addr AND l.local_port = r.local_port AND l.sample = s.sample
  LEFT JOIN counted AS c ON c.ns = r.ns AND c.sample = s.sample
  WHERE params.top = 0 OR r.place <= params.top
  GROUP BY r.place, s.slice
)
SELECT
  f.time,
  CASE
    -- Kernels differ by one in how many they keep.
    WHEN f.syn_recv_max >= r.backlog OR f.syn_recv_max >= limits.most THEN 'full'
    WHEN f.accept_full > 0 AND f.syn_recv_max > 0 THEN 'accept queue'
    WHEN f.repeated_percent >= 50 THEN 'unanswered'
    WHEN f.dropped > 0 THEN 'drops'
    WHEN f.cookies_sent > 0 THEN 'cookies'
    ELSE 'ok'
  END AS verdict,
  f.comm, f.pid, endpoint(r.local_addr, r.local_port) AS local,
  CAST(f.syn_recv_max AS BIGINT) AS syn_recv_max, round(f.syn_recv_avg, 1) AS syn_recv_avg, r.backlog,
  round(100.0 * f.syn_recv_max / nullif(CASE WHEN limits.most < r.backlog THEN limits.most ELSE r.backlog END, 0), 1)
    AS fill_percent,
  round(f.repeated_percent, 1) AS repeated_percent, CAST(f.accept_full AS BIGINT) AS accept_full,
  CAST(f.dropped AS BIGINT) AS dropped, CAST(f.cookies_sent AS BIGINT) AS cookies_sent,
  CAST(f.cookies_answered AS BIGINT) AS cookies_answered, f.samples, netns_of(r.ns) AS netns
FROM filled AS f
JOIN ranked AS r USING (place)
LEFT JOIN limits USING (ns)
ORDER BY place, slice
