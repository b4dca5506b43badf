-- title = "Connections left in CLOSE-WAIT"
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
-- uses = [
--   "endpoint", "half_closed", "history", "netns_of", "slice_of", "slice_width_by", "tcp_reads",
--   "the_only",
-- ]
-- ranks = [
--   "verdict", "comm", "pid", "sockets", "peer", "local", "growth", "oldest_s", "at_least", "since", "unread_bytes",
-- ]
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
-- oldest_s = "Longest that one of them had waited in a sample, in seconds: at least so long, by the kernel's clock (last_ack_recv_ms) and by what samples show."
-- at_least = "True if one of them was in CLOSE-WAIT when the recording or the scope began: it may be older still."
-- since = "First sample that showed one of them in CLOSE-WAIT, UTC; by time the first sample of the slice."
-- unread_bytes = "Received and not read, in the last sample."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot; by socket only."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "process"
-- choices = ["process", "socket", "time"]
-- doc = "What a row is: process, socket or time (a process in a slice of the time)."
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
WITH held AS (
  SELECT
    w.*,
    w.samples = 1 AND NOT coalesce(w.at_last, true) AS passing,
    CASE WHEN params.by = 'socket' THEN w.cookie END AS row_cookie,
    dense_rank() OVER (
      ORDER BY w.ns, w.pid NULLS LAST, w.start_us NULLS LAST, CASE WHEN params.by = 'socket' THEN w.cookie END NULLS LAST
    ) AS holder
  FROM half_closed AS w CROSS JOIN params
  WHERE w.state = 'CLOSE-WAIT'
),
holders AS (
  SELECT
    holder, any_value(ns) AS ns, any_value(row_cookie) AS row_cookie, any_value(pid) AS pid, any_value(comm) AS comm,
    the_only(local) AS local, endpoint(the_only(peer_addr), the_only(peer_port)) AS peer,
    min(since) AS since, bool_or(at_first) AS at_least,
    max(waited_us) AS oldest_us,
    CASE
      WHEN 2 * count(*) FILTER (WHERE verdict = 'not closed') >= count(*) THEN 'not closed'
      WHEN 2 * count(*) FILTER (WHERE verdict = 'not accepted') >= count(*) THEN 'not accepted'
      WHEN count(*) FILTER (WHERE verdict = 'not read') > 0 THEN 'not read'
    END AS verdict,
    row_number() OVER (ORDER BY sum(waited_us) DESC, count(*) DESC, holder) AS place
  FROM held
  GROUP BY holder
  HAVING NOT bool_and(passing)
),
counted AS (
  SELECT
    h.holder, w.sample, count(*) AS sockets, max(w.t_us - h.since_us) AS oldest_us,
    sum(CASE WHEN w.recv_q > 0 THEN w.recv_q - 1 ELSE w.recv_q END) AS unread_bytes
  FROM held AS h
  JOIN history AS w USING (ns, cookie)
  WHERE w.state = 'CLOSE-WAIT'
  GROUP BY h.holder, w.sample
),
sliced AS (
  SELECT
    h.holder,
    slice_of(
      m.t_us, span.start_us, slice_width_by(params.by, span.start_us, span.end_us, params.interval)
    ) AS slice,
    min(m.sample_time) AS time,
    max_by(coalesce(c.sockets, 0), m.sample) AS sockets, min_by(coalesce(c.sockets, 0), m.sample) AS first,
    max(coalesce(c.sockets, 0)) AS peak, max(c.oldest_us) AS oldest_us,
    arg_max_null(CASE WHEN c.holder IS NULL THEN 0 ELSE c.unread_bytes END, m.sample) AS unread_bytes
  FROM holders AS h
  CROSS JOIN params
  CROSS JOIN (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM tcp_reads) AS span
  JOIN tcp_reads AS m USING (ns)
  LEFT JOIN counted AS c ON c.holder = h.holder AND c.sample = m.sample
  WHERE params.top = 0 OR h.place <= params.top
  GROUP BY h.holder, slice
)
SELECT
  h.verdict, h.comm, h.pid, h.local, h.peer, s.sockets, s.first, s.peak,
  s.sockets - coalesce(lag(s.sockets) OVER (PARTITION BY h.holder ORDER BY s.slice), s.first) AS growth,
  round(CASE WHEN s.holder IS NULL THEN h.oldest_us ELSE s.oldest_us END / 1000000.0, 1) AS oldest_s,
  h.at_least,
  CASE WHEN params.by = 'time' AND s.time IS NOT NULL THEN s.time ELSE h.since END AS since,
  CAST(s.unread_bytes AS BIGINT) AS unread_bytes, netns_of(h.ns) AS netns, h.row_cookie AS cookie
FROM holders AS h
CROSS JOIN params
LEFT JOIN sliced AS s USING (holder)
WHERE params.top = 0 OR h.place <= params.top
ORDER BY h.place, s.slice
