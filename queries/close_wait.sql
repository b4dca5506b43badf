-- title = "Connections that their own process does not close"
-- description = """
-- In CLOSE-WAIT the peer has closed, and the connection waits for its own process to do the same. The
-- kernel never ends that state: a process that forgets to close leaks descriptors and memory until its
-- limit stops it. Processes come first whose connections have waited longest in sum; read growth: if
-- it only rises, it is a leak, and restarting the process merely begins it anew. not closed: the
-- process has read the end and does not close, a fault in its code (or a pool that looks at its idle
-- connections too seldom). not read: it has not even read what came; it hangs or forgot the
-- connection, see stalls. not accepted: its client gave up while the connection lay in the accept
-- queue, see listen_queues. by = socket lists the connections, the oldest first; by = time shows each
-- process in slices of the time. Who had such connections in passing only, each in one sample and gone
-- from the next, is left out; a second or two in CLOSE-WAIT are nothing to worry about.
-- """
-- needs = ["tcp"]
--
-- [columns]
-- verdict = "not closed, not read or not accepted, as above: what holds for most of the connections."
-- comm = "Name of the process that must close."
-- pid = "That process; nothing if it is not known."
-- local = "Local address and port, if they all have the same."
-- peer = "Peer address and port, if they all have the same, else the address if that is one."
-- sockets = "Connections in CLOSE-WAIT in the last sample, or the last one of the slice."
-- first = "Those in the first sample."
-- peak = "Most in a sample."
-- growth = "sockets less first; by time less those of the slice before."
-- oldest_s = "Longest that one of them had waited in a sample, in seconds, as far as samples show."
-- at_least = "True if one of them was in CLOSE-WAIT when the recording or the scope began: it may be older."
-- since = "First sample that showed one of them in CLOSE-WAIT, UTC; by time the first sample of the slice."
-- unread_bytes = "Received and not read, in the last sample."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot; by socket only."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "process"
-- doc = "What a row is: process, socket or time (a process in a slice of the time). Any other word counts as process."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice, by time; 0 makes ten slices of the whole time."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes or sockets are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "oldest_s", type = "quantitative" }
-- y = { field = "comm", sort = "-x" }
-- color = { field = "verdict" }
WITH waiting AS (
  SELECT * FROM sockets WHERE netid = 'tcp' AND state = 'CLOSE-WAIT'
  UNION ALL
  SELECT * FROM baseline WHERE netid = 'tcp' AND state = 'CLOSE-WAIT'
),
moments AS (
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
waits AS (
  SELECT
    netns,
    cookie,
    max_by(pid, CASE WHEN pid IS NOT NULL THEN sample END) AS pid,
    max_by(start_us, CASE WHEN pid IS NOT NULL THEN sample END) AS start_us,
    max_by(comm, CASE WHEN pid IS NOT NULL THEN sample END) AS comm,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    min(sample) AS first_sample,
    min(sample_time) AS since,
    min(t_us) AS since_us,
    max(t_us) AS until_us,
    max(sample) AS last_sample,
    count(*) AS samples,
    CASE
      -- A connection gets its inode when it is accepted; an unread FIN counts as a byte.
      WHEN max_by(inode, sample) = 0 THEN 'not accepted'
      WHEN max_by(recv_q, sample) > 0 THEN 'not read'
      WHEN max_by(recv_q, sample) = 0 THEN 'not closed'
    END AS verdict
  FROM waiting
  GROUP BY netns, cookie
),
finals AS (
  SELECT netns, max(sample) AS sample
  FROM moments
  GROUP BY netns
),
held AS (
  SELECT
    waits.*,
    CASE WHEN waits.samples = 1 AND waits.last_sample < finals.sample THEN 1 ELSE 0 END AS passing,
    CASE WHEN params.by = 'socket' THEN waits.cookie END AS row_cookie,
    dense_rank() OVER (
      ORDER BY waits.netns, waits.pid NULLS LAST, waits.start_us NULLS LAST,
        CASE WHEN params.by = 'socket' THEN waits.cookie END NULLS LAST
    ) AS holder
  FROM waits
  LEFT JOIN finals
    ON finals.netns = waits.netns
  CROSS JOIN params
),
holders AS (
  SELECT
    holder,
    any_value(netns) AS netns,
    any_value(row_cookie) AS row_cookie,
    any_value(pid) AS pid,
    any_value(comm) AS comm,
    CASE WHEN min(local_addr) = max(local_addr) AND min(local_port) = max(local_port) THEN min(local_addr) END AS local_addr,
    min(local_port) AS local_port,
    CASE WHEN min(peer_addr) = max(peer_addr) THEN min(peer_addr) END AS peer_addr,
    CASE WHEN min(peer_port) = max(peer_port) THEN min(peer_port) END AS peer_port,
    min(since) AS since,
    min(first_sample) AS first_sample,
    max(until_us - since_us) AS oldest_us,
    CASE
      WHEN 2 * count(CASE WHEN verdict = 'not closed' THEN 1 END) >= count(*) THEN 'not closed'
      WHEN 2 * count(CASE WHEN verdict = 'not accepted' THEN 1 END) >= count(*) THEN 'not accepted'
      WHEN count(CASE WHEN verdict = 'not read' THEN 1 END) > 0 THEN 'not read'
    END AS verdict,
    row_number() OVER (ORDER BY sum(until_us - since_us) DESC, count(*) DESC, holder) AS place
  FROM held
  GROUP BY holder
  HAVING min(passing) = 0
),
counted AS (
  SELECT
    h.holder,
    w.sample,
    count(*) AS sockets,
    max(w.t_us - h.since_us) AS oldest_us,
    sum(CASE WHEN w.recv_q > 0 THEN w.recv_q - 1 ELSE w.recv_q END) AS unread_bytes
  FROM held AS h
  JOIN waiting AS w
    ON w.netns = h.netns
    AND w.cookie = h.cookie
  GROUP BY h.holder, w.sample
),
slicing AS (
  SELECT
    span.start_us,
    CASE
      -- One slice for all, unless rows are slices.
      WHEN params.by <> 'time' THEN span.end_us - span.start_us + 1
      WHEN params.interval > 0 THEN CAST(params.interval * 1000000 AS BIGINT)
      ELSE CAST(floor((span.end_us - span.start_us) / 10.0) AS BIGINT) + 1
    END AS wide_us
  FROM (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM moments) AS span
  CROSS JOIN params
),
filled AS (
  SELECT
    h.holder,
    m.sample,
    m.sample_time,
    (m.t_us - s.start_us) - (m.t_us - s.start_us) % s.wide_us AS slice,
    coalesce(c.sockets, 0) AS sockets,
    CASE WHEN c.holder IS NULL THEN 0 ELSE c.unread_bytes END AS unread_bytes,
    c.oldest_us
  FROM holders AS h
  CROSS JOIN params
  CROSS JOIN slicing AS s
  JOIN moments AS m
    ON m.netns = h.netns
  LEFT JOIN counted AS c
    ON c.holder = h.holder
    AND c.sample = m.sample
  WHERE params.top = 0 OR h.place <= params.top
),
sliced AS (
  SELECT
    holder,
    slice,
    min(sample_time) AS time,
    max_by(sockets, sample) AS sockets,
    min_by(sockets, sample) AS first,
    max(sockets) AS peak,
    max(oldest_us) AS oldest_us,
    max_by(unread_bytes, sample) AS unread_bytes
  FROM filled
  GROUP BY holder, slice
),
begun AS (
  SELECT netns, min(sample) AS sample
  FROM moments
  GROUP BY netns
)
SELECT
  h.verdict AS verdict,
  h.comm AS comm,
  h.pid AS pid,
  CASE
    WHEN h.local_addr LIKE '%:%' THEN concat('[', h.local_addr, ']:', CAST(h.local_port AS VARCHAR))
    WHEN h.local_addr IS NOT NULL THEN concat(h.local_addr, ':', CAST(h.local_port AS VARCHAR))
  END AS local,
  CASE
    WHEN h.peer_port IS NULL THEN h.peer_addr
    WHEN h.peer_addr LIKE '%:%' THEN concat('[', h.peer_addr, ']:', CAST(h.peer_port AS VARCHAR))
    WHEN h.peer_addr IS NOT NULL THEN concat(h.peer_addr, ':', CAST(h.peer_port AS VARCHAR))
  END AS peer,
  s.sockets AS sockets,
  s.first AS first,
  s.peak AS peak,
  s.sockets - coalesce(lag(s.sockets) OVER (PARTITION BY h.holder ORDER BY s.slice), s.first) AS growth,
  round(CASE WHEN s.holder IS NULL THEN h.oldest_us ELSE s.oldest_us END / 1000000.0, 1) AS oldest_s,
  h.first_sample <= begun.sample AS at_least,
  CASE WHEN params.by = 'time' AND s.time IS NOT NULL THEN s.time ELSE h.since END AS since,
  CAST(s.unread_bytes AS BIGINT) AS unread_bytes,
  h.netns AS netns,
  h.row_cookie AS cookie
FROM holders AS h
CROSS JOIN params
LEFT JOIN sliced AS s
  ON s.holder = h.holder
LEFT JOIN begun
  ON begun.netns = h.netns
WHERE params.top = 0 OR h.place <= params.top
ORDER BY h.place, s.slice
