-- title = "Unix sockets: who serves whom"
-- description = """
-- The sockets of this host that talk by a path or an abstract name: one line for every listener, and
-- one for all connections between two processes over one path. What needs a look comes first: a
-- listener whose queue is full (its process does not accept, and who connects waits or fails), then
-- data that nobody reads (reader names the process), then what grows: connections that grow from
-- first to last and never fall are leaked by one end. A connected pair is counted once, at the end
-- that has the path; of two ends without a path (socketpair) either may be the one named first.
-- unread_s is a lower bound of a stall and an upper one of bad luck: the queue was never empty nor
-- shorter in any sample of that time, but the kernel tells no bytes that passed meanwhile. Of a
-- datagram socket only the first datagram counts as unread. Where the table of unix sockets could
-- not be read nothing is said.
-- """
-- needs = ["unix"]
-- uses = ["listeners", "table_reads", "unix_waits"]
-- ranks = [
--   "verdict", "path", "comm", "pid", "peer_comm", "peer_pid", "reader", "unread_s", "peak", "last", "growth",
--   "waiting_peak", "stood_s", "backlog", "full_samples", "netid", "state",
-- ]
--
-- [columns]
-- verdict = "does not accept: the listener's queue was full in the last sample or twice, or stood for as long as stuck_s; does not read: data waited for as long as stuck_s; else nothing."
-- netid = "Kind of socket: u_str, u_seq, u_dgr."
-- state = "LISTEN, ESTAB for connections, UNCONN for datagram sockets that wait for whoever sends."
-- path = "Name of the socket, @ for each NUL; nothing if it has none."
-- pid = "Process at the end with the path; nothing if not known."
-- comm = "Its name."
-- peer_pid = "Process at the other end."
-- peer_comm = "Its name."
-- first = "Sockets or connected pairs in the first sample that read the table."
-- peak = "Most of them in one sample."
-- last = "Those in the last sample that read the table."
-- growth = "last less first."
-- peak_time = "First sample with the peak."
-- unread_peak_bytes = "Most data unread at either end of one of them in a sample (Recv-Q)."
-- unsent_peak_bytes = "Most memory of what an end of one of them wrote and the other had not read (Send-Q)."
-- unread_s = "Longest time in which data waited at one end of one of them and the queue never got shorter."
-- reader = "Process that did not read for that time."
-- waiting_peak = "Of a listener: most connections that waited to be accepted."
-- backlog = "Of a listener: connections that may wait."
-- full_samples = "Of a listener: samples with its queue full."
-- stood_s = "Of a listener: longest time in which somebody waited and the queue never got shorter."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many lines are listed; 0 lists all."
--
-- [params.stuck_s]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which data may wait before its reader is said not to read, or somebody in a queue that never gets shorter before its listener is said not to accept: for less, a process may be busy."
--
-- [chart]
-- mark = "bar"
-- x = { field = "peak", type = "quantitative" }
-- y = { field = "path", sort = "-x" }
-- color = { field = "state" }
WITH local AS (
  SELECT
    ns, cookie, sample, sample_time, t_us, netid, state, local_addr, inode, peer_inode, pid, start_us, comm, recv_q, send_q
  FROM sockets
  WHERE family = 'unix'
),
ends AS (
  SELECT
    ns, cookie, max_by(netid, sample) AS netid, max_by(state, sample) AS state, max_by(local_addr, sample) AS path,
    max(nullif(inode, 0)) AS inode, max(nullif(peer_inode, 0)) AS peer_inode,
    -- Connected, but not accepted yet.
    coalesce(max(peer_inode) = 0 AND max_by(netid, sample) <> 'u_dgr', false) AS waits,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    min(sample) AS first_sample, max(sample) AS last_sample, max(recv_q) AS recv_q_peak, max(send_q) AS send_q_peak
  FROM local
  GROUP BY ns, cookie
),
unread AS (
  SELECT ns, cookie, max(lasted_us) AS us
  FROM unix_waits
  GROUP BY ns, cookie
),
known AS (
  SELECT
    e.*, u.us AS unread_us, CASE WHEN d.path IS NOT NULL THEN 2 WHEN e.path IS NOT NULL THEN 1 ELSE 0 END AS serves,
    -- Whose peer no sample shows: with a path it is the end that serves.
    NOT (e.path IS NULL AND (e.peer_inode IS NOT NULL OR e.waits)) AS serves_alone
  FROM ends AS e
  LEFT JOIN (SELECT DISTINCT path FROM ends WHERE state = 'LISTEN' AND path IS NOT NULL) AS d
    ON d.path = e.path AND e.state <> 'LISTEN'
  LEFT JOIN unread AS u ON u.ns = e.ns AND u.cookie = e.cookie
),
met AS (
  -- An inode tells sockets of all namespaces apart, until its number is used again.
  SELECT
    c.ns, c.cookie, s.ns AS server_ns, s.cookie AS server_cookie,
    coalesce(s.peer_inode = c.inode, false) AS mutual,
    CASE
      WHEN s.peer_inode IS NULL OR s.peer_inode <> c.inode THEN true
      ELSE s.serves > c.serves OR (s.serves = c.serves AND s.inode < c.inode)
    END AS client
  FROM known AS c
  JOIN known AS s
    ON s.inode = c.peer_inode AND s.first_sample <= c.last_sample AND s.last_sample >= c.first_sample
  WHERE s.state <> 'LISTEN'
  QUALIFY row_number() OVER (PARTITION BY c.ns, c.cookie ORDER BY s.last_sample DESC, s.ns, s.cookie) = 1
),
lines AS (
  -- One row for each listener, each pair, and each socket that is alone.
  SELECT
    c.ns, c.cookie, c.netid,
    CASE WHEN m.cookie IS NULL AND c.netid = 'u_dgr' AND c.peer_inode IS NULL THEN 'UNCONN' ELSE c.state END AS state,
    CASE WHEN m.cookie IS NOT NULL THEN s.path ELSE c.path END AS path,
    CASE WHEN m.cookie IS NOT NULL THEN s.pid WHEN c.serves_alone THEN c.pid END AS pid,
    CASE WHEN m.cookie IS NOT NULL THEN s.start_us WHEN c.serves_alone THEN c.start_us END AS start_us,
    CASE WHEN m.cookie IS NOT NULL THEN s.comm WHEN c.serves_alone THEN c.comm END AS comm,
    CASE WHEN m.cookie IS NOT NULL OR NOT c.serves_alone THEN c.pid END AS peer_pid,
    CASE WHEN m.cookie IS NOT NULL OR NOT c.serves_alone THEN c.start_us END AS peer_start_us,
    CASE WHEN m.cookie IS NOT NULL OR NOT c.serves_alone THEN c.comm END AS peer_comm,
    CASE
      WHEN c.state = 'LISTEN' THEN NULL
      WHEN m.mutual AND s.recv_q_peak > c.recv_q_peak THEN s.recv_q_peak
      ELSE c.recv_q_peak
    END AS unread_peak,
    CASE
      WHEN c.state = 'LISTEN' THEN NULL
      WHEN m.mutual AND s.send_q_peak > c.send_q_peak THEN s.send_q_peak
      ELSE c.send_q_peak
    END AS unsent_peak,
    coalesce(m.mutual, false) AND coalesce(s.unread_us, -1) > coalesce(c.unread_us, -1) AS server_reads,
    CASE WHEN server_reads THEN s.unread_us ELSE c.unread_us END AS unread_us,
    CASE WHEN server_reads THEN s.comm ELSE c.comm END AS reader,
    l.queue_peak AS waiting_peak, l.backlog, l.full_samples, l.queue_last > l.backlog AS full_last, l.stood_us
  FROM known AS c
  LEFT JOIN met AS m USING (ns, cookie)
  LEFT JOIN known AS s ON s.ns = m.server_ns AND s.cookie = m.server_cookie
  LEFT JOIN listeners AS l ON c.state = 'LISTEN' AND l.ns = c.ns AND l.cookie = c.cookie
  WHERE m.cookie IS NULL OR m.client
),
numbered AS (
  SELECT
    lines.*, dense_rank() OVER (ORDER BY netid, state, path, pid, start_us, comm, peer_pid, peer_start_us, peer_comm) AS line
  FROM lines
),
counts AS (
  SELECT
    c.line,
    CASE WHEN s.first_sample IS NOT NULL THEN coalesce(max(c.sockets) FILTER (WHERE c.sample = s.first_sample), 0) END AS first,
    max(c.sockets) AS peak,
    CASE WHEN s.last_sample IS NOT NULL THEN coalesce(max(c.sockets) FILTER (WHERE c.sample = s.last_sample), 0) END AS last,
    -- The first of the samples with the most.
    max_by(c.sample_time, c.sockets * 4294967296 - c.sample) AS peak_time
  FROM (
    SELECT n.line, r.sample, min(r.sample_time) AS sample_time, count(*) AS sockets
    FROM local AS r JOIN numbered AS n USING (ns, cookie)
    GROUP BY n.line, r.sample
  ) AS c
  CROSS JOIN (
    SELECT min(sample) AS first_sample, max(sample) AS last_sample
    FROM (SELECT sample FROM table_reads WHERE kind = 'unix' GROUP BY sample HAVING bool_and(whole)) AS moments
  ) AS s
  GROUP BY c.line, s.first_sample, s.last_sample
),
judged AS (
  SELECT
    line, max(netid) AS netid, max(state) AS state, max(path) AS path, max(pid) AS pid, max(comm) AS comm,
    max(peer_pid) AS peer_pid, max(peer_comm) AS peer_comm, max(unread_peak) AS unread_peak, max(unsent_peak) AS unsent_peak,
    max(unread_us) / 1000000.0 AS unread_s, max_by(reader, 2 * unread_us + CAST(server_reads AS INT)) AS reader,
    max(waiting_peak) AS waiting_peak, max(backlog) AS backlog, max(full_samples) AS full_samples,
    max(stood_us) / 1000000.0 AS stood_s,
    CASE
      WHEN max(full_samples) > 1 OR bool_or(full_last) OR max(stood_us) / 1000000.0 >= any_value(params.stuck_s) THEN 'does not accept'
      WHEN max(unread_us) / 1000000.0 >= any_value(params.stuck_s) THEN 'does not read'
    END AS verdict
  FROM numbered CROSS JOIN params
  GROUP BY line
),
ranked AS (
  SELECT
    j.*, c.first, c.peak, c.last, c.peak_time,
    row_number() OVER (
      ORDER BY
        CASE j.verdict WHEN 'does not accept' THEN 0 WHEN 'does not read' THEN 1 ELSE 2 END,
        CASE WHEN j.verdict = 'does not read' THEN j.unread_s END DESC NULLS LAST,
        c.last - c.first DESC NULLS LAST, c.peak DESC, j.line
    ) AS place
  FROM judged AS j JOIN counts AS c USING (line) CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  verdict, netid, state, path, pid, comm, peer_pid, peer_comm, first, peak, last, last - first AS growth, peak_time,
  unread_peak AS unread_peak_bytes, unsent_peak AS unsent_peak_bytes, round(unread_s, 1) AS unread_s,
  CASE WHEN unread_s > 0 THEN reader END AS reader, waiting_peak, backlog, full_samples, round(stood_s, 1) AS stood_s
FROM ranked
ORDER BY place
