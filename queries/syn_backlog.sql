-- title = "Handshakes waiting for their last packet"
-- description = """
-- Connections in SYN-RECV per listening address and port, in equal slices of the time, the port with
-- most of them first. They wait for the client's last packet, and the kernel keeps at most as many as
-- the listener's backlog says; without SYN cookies only three quarters of net.ipv4.tcp_max_syn_backlog
-- for clients it does not know. full: it kept as many as it may; more SYNs are dropped or answered
-- with cookies. accept queue: the accept queue was full, so that handshakes cannot end; read
-- listen_queues first. unanswered: to half of them or more the kernel had to repeat its answer; the
-- clients' addresses are forged (a SYN flood), or packets are lost on the way. cookies, drops: the
-- kernel sent cookies, or dropped SYNs, somewhere in this namespace. ok: handshakes end as they
-- should. No row: no sample saw one unfinished, and the counters stand still. A slice without a
-- sample that saw the whole TCP table is left out.
-- """
-- needs = ["tcp"]
--
-- [columns]
-- time = "First sample of the slice, UTC."
-- verdict = "full, accept queue, unanswered, drops, cookies or ok, as above."
-- comm = "Name of the process that listens; nothing if no listener was seen."
-- pid = "Process that listens."
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
-- x = { field = "time", type = "temporal" }
-- y = { field = "syn_recv_max", type = "quantitative" }
-- color = { field = "local" }
WITH moments AS (
  SELECT netns, sample, min(t_us) AS t_us, min(sample_time) AS sample_time
  FROM samples
  WHERE step IN ('tcp', 'tcp6', 'all')
  GROUP BY netns, sample
  HAVING min(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) = 1
  UNION ALL
  -- A file of sockets alone does not say what was read.
  SELECT DISTINCT netns, sample, t_us, sample_time
  FROM sockets
  WHERE netid = 'tcp' AND NOT EXISTS (SELECT 1 FROM samples)
),
slicing AS (
  SELECT
    span.start_us,
    CASE
      WHEN params.interval > 0 THEN CAST(params.interval * 1000000 AS BIGINT)
      ELSE CAST(floor((span.end_us - span.start_us) / 10.0) AS BIGINT) + 1
    END AS wide_us
  FROM (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM moments) AS span
  CROSS JOIN params
),
sliced AS (
  SELECT m.netns, m.sample, m.sample_time, (m.t_us - s.start_us) - (m.t_us - s.start_us) % s.wide_us AS slice
  FROM moments AS m
  CROSS JOIN slicing AS s
),
listening AS (
  -- Several sockets may listen on one address and port.
  SELECT
    netns,
    local_addr,
    local_port,
    sample,
    min(pid) AS pid,
    min_by(comm, CASE WHEN pid IS NOT NULL THEN pid END) AS comm,
    CAST(sum(send_q) AS BIGINT) AS backlog,
    max(CASE WHEN recv_q > send_q THEN 1 ELSE 0 END) AS accept_full
  FROM sockets
  WHERE state = 'LISTEN' AND netid = 'tcp'
  GROUP BY netns, local_addr, local_port, sample
),
doors AS (
  SELECT
    netns,
    local_addr,
    local_port,
    max_by(pid, sample) AS pid,
    max_by(comm, CASE WHEN comm IS NOT NULL THEN sample END) AS comm,
    max_by(backlog, sample) AS backlog
  FROM listening
  GROUP BY netns, local_addr, local_port
),
handshakes AS (
  SELECT
    netns,
    local_addr,
    local_port,
    sample,
    count(*) AS waiting,
    count(CASE WHEN retrans > 0 THEN 1 END) AS repeated
  FROM sockets
  WHERE state = 'SYN-RECV'
  GROUP BY netns, local_addr, local_port, sample
),
matched AS (
  -- The listener of a handshake: of its own address, else of all addresses.
  SELECT
    h.netns,
    h.local_addr,
    h.local_port,
    coalesce(
      max(CASE WHEN d.local_addr = h.local_addr THEN d.local_addr END),
      max(CASE WHEN d.local_addr IN ('0.0.0.0', '::', '*') THEN d.local_addr END),
      h.local_addr
    ) AS door_addr
  FROM (SELECT DISTINCT netns, local_addr, local_port FROM handshakes) AS h
  LEFT JOIN doors AS d
    ON d.netns = h.netns
    AND d.local_port = h.local_port
  GROUP BY h.netns, h.local_addr, h.local_port
),
waiting AS (
  SELECT
    h.netns,
    m.door_addr AS local_addr,
    h.local_port,
    h.sample,
    sum(h.waiting) AS waiting,
    sum(h.repeated) AS repeated
  FROM handshakes AS h
  JOIN matched AS m
    ON m.netns = h.netns
    AND m.local_addr = h.local_addr
    AND m.local_port = h.local_port
  GROUP BY h.netns, m.door_addr, h.local_port, h.sample
),
readings AS (
  SELECT
    netns,
    name,
    sample,
    max(value) - coalesce(lag(max(value)) OVER (PARTITION BY netns, name ORDER BY sample), min(value)) AS growth
  FROM counter_values
  WHERE name IN ('TcpExt.TCPReqQFullDrop', 'TcpExt.SyncookiesSent', 'TcpExt.SyncookiesRecv')
  GROUP BY netns, name, sample
),
counted AS (
  SELECT
    netns,
    sample,
    max(CASE WHEN name = 'TcpExt.TCPReqQFullDrop' THEN growth END) AS dropped,
    max(CASE WHEN name = 'TcpExt.SyncookiesSent' THEN growth END) AS cookies_sent,
    max(CASE WHEN name = 'TcpExt.SyncookiesRecv' THEN growth END) AS cookies_answered
  FROM readings
  GROUP BY netns, sample
),
ranked AS (
  SELECT
    known_doors.*,
    row_number() OVER (
      ORDER BY known_doors.peak DESC, known_doors.netns, known_doors.local_port, known_doors.local_addr
    ) AS place
  FROM (
    SELECT
      coalesce(d.netns, w.netns) AS netns,
      coalesce(d.local_addr, w.local_addr) AS local_addr,
      coalesce(d.local_port, w.local_port) AS local_port,
      d.pid,
      d.comm,
      d.backlog,
      coalesce(w.peak, 0) AS peak
    FROM doors AS d
    FULL JOIN (
      SELECT netns, local_addr, local_port, max(waiting) AS peak
      FROM waiting
      GROUP BY netns, local_addr, local_port
    ) AS w
      ON w.netns = d.netns
      AND w.local_addr = d.local_addr
      AND w.local_port = d.local_port
  ) AS known_doors
  LEFT JOIN (
    SELECT netns, sum(coalesce(dropped, 0) + coalesce(cookies_sent, 0)) AS events
    FROM counted
    GROUP BY netns
  ) AS c
    ON c.netns = known_doors.netns
  WHERE known_doors.peak > 0 OR c.events > 0
),
limits AS (
  -- Without cookies the last quarter is kept for clients that the kernel knows.
  SELECT
    netns,
    CASE
      WHEN max(CASE WHEN name = 'net.ipv4.tcp_syncookies' THEN value END) = '0'
        THEN 0.75 * max(CASE WHEN name = 'net.ipv4.tcp_max_syn_backlog' THEN TRY_CAST(value AS BIGINT) END)
    END AS most
  FROM settings
  WHERE name IN ('net.ipv4.tcp_syncookies', 'net.ipv4.tcp_max_syn_backlog')
  GROUP BY netns
),
filled AS (
  SELECT
    r.place,
    s.slice,
    min(s.sample_time) AS time,
    max(coalesce(w.waiting, 0)) AS syn_recv_max,
    avg(coalesce(w.waiting, 0)) AS syn_recv_avg,
    100.0 * sum(w.repeated) / nullif(sum(w.waiting), 0) AS repeated_percent,
    sum(coalesce(l.accept_full, 0)) AS accept_full,
    sum(c.dropped) AS dropped,
    sum(c.cookies_sent) AS cookies_sent,
    sum(c.cookies_answered) AS cookies_answered,
    count(*) AS samples
  FROM ranked AS r
  CROSS JOIN params
  JOIN sliced AS s
    ON s.netns = r.netns
  LEFT JOIN waiting AS w
    ON w.netns = r.netns
    AND w.local_addr = r.local_addr
    AND w.local_port = r.local_port
    AND w.sample = s.sample
  LEFT JOIN listening AS l
    ON l.netns = r.netns
    AND l.local_addr = r.local_addr
    AND l.local_port = r.local_port
    AND l.sample = s.sample
  LEFT JOIN counted AS c
    ON c.netns = r.netns
    AND c.sample = s.sample
  WHERE params.top = 0 OR r.place <= params.top
  GROUP BY r.place, s.slice
)
SELECT
  f.time AS time,
  CASE
    -- Kernels differ by one in how many they keep.
    WHEN f.syn_recv_max >= r.backlog OR f.syn_recv_max >= limits.most THEN 'full'
    WHEN f.accept_full > 0 AND f.syn_recv_max > 0 THEN 'accept queue'
    WHEN f.repeated_percent >= 50 THEN 'unanswered'
    WHEN f.dropped > 0 THEN 'drops'
    WHEN f.cookies_sent > 0 THEN 'cookies'
    ELSE 'ok'
  END AS verdict,
  r.comm AS comm,
  r.pid AS pid,
  CASE
    WHEN r.local_addr LIKE '%:%' THEN concat('[', r.local_addr, ']:', CAST(r.local_port AS VARCHAR))
    ELSE concat(r.local_addr, ':', CAST(r.local_port AS VARCHAR))
  END AS local,
  CAST(f.syn_recv_max AS BIGINT) AS syn_recv_max,
  round(f.syn_recv_avg, 1) AS syn_recv_avg,
  r.backlog AS backlog,
  round(
    100.0 * f.syn_recv_max
      / nullif(CASE WHEN limits.most < r.backlog THEN limits.most ELSE r.backlog END, 0),
    1
  ) AS fill_percent,
  round(f.repeated_percent, 1) AS repeated_percent,
  CAST(f.accept_full AS BIGINT) AS accept_full,
  CAST(f.dropped AS BIGINT) AS dropped,
  CAST(f.cookies_sent AS BIGINT) AS cookies_sent,
  CAST(f.cookies_answered AS BIGINT) AS cookies_answered,
  f.samples AS samples,
  r.netns AS netns
FROM filled AS f
JOIN ranked AS r
  ON r.place = f.place
LEFT JOIN limits
  ON limits.netns = r.netns
ORDER BY r.place, f.slice
