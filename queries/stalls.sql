-- title = "TCP connections that are stuck"
-- description = """
-- Connections with data in a queue that has not moved by a byte for longer than any delay explains,
-- the longest first. culprit names who must act. not accepted: the data lies in a connection that
-- the listening process has not accepted. reader stalled: the process that holds the socket does not
-- read its Recv-Q; look at what it does instead. peer stalled: the peer has closed its window, as
-- its process does not read; culprit is that process if it runs on this host. network: what was sent
-- is not acknowledged, or the peer does not even answer probes; look at the way to it, and at report
-- retransmits; where never_pass_bytes is told, segments of that size never pass and smaller ones do:
-- the MTU is smaller on the way, and nobody says so. No verdict: the kernel reported too little. A stall may have begun up to an interval
-- before since, and longer ago if the first sample of the scope shows it. Sockets other than TCP
-- have no counters that would show a standstill: see queue_growth, udp_drops, unix_sockets.
-- """
-- needs = ["tcp"]
-- uses = ["culprit", "history", "is_certain", "netns_of", "opposite", "undelivered"]
-- ranks = [
--   "queue", "verdict", "culprit", "local", "peer", "stuck_s", "waiting_bytes", "never_pass_bytes", "comm", "pid", "state", "since",
--   "until", "timeouts", "probes",
-- ]
--
-- [columns]
-- queue = "Recv-Q: received and not read by the process; Send-Q: not acknowledged by the peer."
-- verdict = "Why, in the words above."
-- culprit = "The process that must read or accept, else the peer or the network to it."
-- comm = "Name of the process that holds the socket."
-- pid = "Process that holds it."
-- local = "Local address and port."
-- peer = "Peer address and port."
-- state = "State, as ss prints it, in the last sample of the stall."
-- waiting_bytes = "Data in the queue in that sample."
-- stuck_s = "Seconds from the first to the last sample of the stall."
-- since = "First sample that showed it, UTC."
-- until = "Last sample that showed it, UTC."
-- window_bytes = "Window in the last sample: the peer's for Send-Q, the own one for Recv-Q."
-- unacked = "Segments sent and not acknowledged."
-- timeouts = "Most times in a row that the retransmission timer fired in vain."
-- never_pass_bytes = "Size of full segments that never pass while small ones do; empty if that is not so."
-- probes = "Most window probes in a row without an answer."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "How long no byte may move at least; never less than three intervals. Five seconds outlast every ordinary delay and four doublings of the smallest retransmission timeout."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many stalls are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "stuck_s", type = "quantitative" }
-- y = { field = "local", sort = "-x" }
-- color = { field = "verdict" }
WITH waiting AS (
  -- A FIN counts as a byte in both queues. What was read or acknowledged in all is constant in a stall.
  SELECT *
  FROM (
    SELECT
      ns, cookie, unnest(['Recv-Q', 'Send-Q']) AS queue, sample, sample_time, t_us, state,
      local_addr, local_port, peer_addr, peer_port, local, peer, pid, comm, inode, snd_mss, rwnd_limited_us,
      unacked, retransmits, backoff, probes, timer,
      unnest([
        -- What a subflow received waits in its MPTCP connection, and it is never accepted itself.
        CASE WHEN NOT coalesce(subflow, false) THEN recv_q - CAST(state IN ('CLOSE-WAIT', 'LAST-ACK', 'CLOSING') AS INT) END,
        send_q - CAST(state IN ('FIN-WAIT-1', 'LAST-ACK', 'CLOSING') AS INT)
      ]) AS waiting_bytes,
      unnest([bytes_received - recv_q, bytes_acked]) AS moved,
      unnest([rcv_wnd, snd_wnd]) AS window_bytes
    FROM history
    WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'SYN-SENT', 'SYN-RECV', 'TIME-WAIT')
      AND (recv_q > 0 OR send_q > 0)
  ) AS both_queues
  WHERE waiting_bytes > 0 AND moved IS NOT NULL
),
ranked AS (
  SELECT
    ns, cookie, queue, moved, max(t_us) - min(t_us) AS stuck_us,
    row_number() OVER (ORDER BY max(t_us) - min(t_us) DESC, ns, cookie, queue, min(t_us)) AS place
  FROM waiting CROSS JOIN params
  GROUP BY ns, cookie, queue, moved, params.seconds, params.top
  -- Four samples are three intervals.
  HAVING count(*) >= 4 AND max(t_us) - min(t_us) >= params.seconds * 1000000
  QUALIFY params.top = 0 OR place <= params.top
),
seen AS (
  SELECT
    r.place, r.ns, r.cookie, r.queue, r.moved, r.stuck_us,
    min(w.sample_time) AS since, max(w.sample_time) AS until, min(w.sample) AS first_sample, max(w.sample) AS last_sample,
    count(*) AS samples,
    any_value(w.local_addr) AS local_addr, any_value(w.local_port) AS local_port, any_value(w.local) AS local,
    any_value(w.peer_addr) AS peer_addr, any_value(w.peer_port) AS peer_port, any_value(w.peer) AS peer,
    max_by(w.pid, w.sample) AS pid, max_by(w.comm, w.sample) AS comm, max_by(w.inode, w.sample) AS inode,
    max_by(w.state, w.sample) AS state, max_by(w.waiting_bytes, w.sample) AS waiting_bytes,
    max_by(w.window_bytes, w.sample) AS window_bytes, max_by(w.unacked, w.sample) AS unacked,
    max(w.retransmits) AS timeouts, max(w.probes) AS probes,
    count(*) FILTER (WHERE w.timer = 'on' AND (w.retransmits > 0 OR w.backoff > 0)) AS retransmitting,
    count(*) FILTER (WHERE coalesce(w.window_bytes < w.snd_mss, w.timer = 'persist')) AS window_closed,
    max(w.probes) FILTER (WHERE w.timer = 'persist') AS unanswered,
    max(w.rwnd_limited_us) - min(w.rwnd_limited_us) AS held_up_us
  FROM ranked AS r JOIN waiting AS w USING (ns, cookie, queue, moved)
  GROUP BY r.place, r.ns, r.cookie, r.queue, r.moved, r.stuck_us
),
judged AS (
  SELECT
    seen.*,
    CASE
      -- A connection gets its inode when it is accepted.
      WHEN queue = 'Recv-Q' AND inode = 0 THEN 'not accepted'
      WHEN queue = 'Recv-Q' THEN 'reader stalled'
      WHEN 2 * retransmitting > samples OR unanswered >= 3 THEN 'network'
      WHEN 2 * window_closed >= samples OR 2 * held_up_us >= stuck_us THEN 'peer stalled'
      WHEN unacked > 0 THEN 'network'
    END AS verdict
  FROM seen
),
others AS (
  -- The other end, if it is on this host: of the same addresses in several namespaces the own one.
  SELECT
    j.place, max_by(s.pid, CASE WHEN s.ns = j.ns THEN 4294967296 ELSE 0 END + s.sample) AS pid,
    max_by(s.comm, CASE WHEN s.ns = j.ns THEN 4294967296 ELSE 0 END + s.sample) AS comm
  FROM judged AS j
  JOIN sockets AS s
    ON opposite(
      s.ns, s.local_addr, s.local_port, s.peer_addr, s.peer_port, j.ns, j.local_addr, j.local_port, j.peer_addr, j.peer_port
    )
  WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'TIME-WAIT') AND s.sample BETWEEN j.first_sample AND j.last_sample
  GROUP BY j.place
  HAVING is_certain(j.ns, s.ns)
)
SELECT
  j.queue, j.verdict, culprit(j.verdict, j.comm, j.pid, o.comm, o.pid, j.peer_addr) AS culprit, j.comm, j.pid,
  j.local, j.peer, j.state, j.waiting_bytes, round(j.stuck_us / 1000000.0, 1) AS stuck_s, j.since, j.until,
  j.window_bytes, j.unacked, j.timeouts, u.never_pass AS never_pass_bytes, j.probes, netns_of(j.ns) AS netns, j.cookie
FROM judged AS j
LEFT JOIN others AS o USING (place)
LEFT JOIN undelivered AS u
  ON j.verdict = 'network' AND j.queue = 'Send-Q' AND u.ns = j.ns AND u.cookie = j.cookie AND u.bytes_acked = j.moved
ORDER BY j.place
