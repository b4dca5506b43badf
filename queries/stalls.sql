-- title = "TCP connections that are stuck"
-- description = """
-- Connections with data in a queue of which not one byte moved for so long that no delay explains
-- it, the longest first. culprit names who must act. not accepted: the data lies in a connection
-- that the listening process has not accepted. reader stalled: the process that holds the socket
-- does not read its Recv-Q; look at what it does instead. peer stalled: the peer has closed its
-- window, as its process does not read; culprit is that process if it runs on this host. network:
-- what was sent is not acknowledged, or the peer does not even answer probes; look at the way to it,
-- and at report retransmits. No verdict: the kernel told too little. A stall may have begun up to an
-- interval before since, and longer ago if the first sample of the scope shows it. Sockets other
-- than TCP have no counters that would show a standstill: see queue_growth, udp_drops, unix_sockets.
-- """
-- needs = ["tcp"]
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
WITH connected AS (
  SELECT * FROM sockets WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'SYN-SENT', 'SYN-RECV', 'TIME-WAIT')
  UNION ALL
  SELECT * FROM baseline WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'SYN-SENT', 'SYN-RECV', 'TIME-WAIT')
),
waiting AS (
  -- A FIN counts as a byte in both queues. What was read or acknowledged in all is constant in a stall.
  SELECT
    netns, cookie, 'Recv-Q' AS queue, sample, sample_time, t_us, state,
    local_addr, local_port, peer_addr, peer_port, pid, comm, inode,
    recv_q - CASE WHEN state IN ('CLOSE-WAIT', 'LAST-ACK', 'CLOSING') THEN 1 ELSE 0 END AS waiting_bytes,
    bytes_received - recv_q AS moved,
    rcv_wnd AS window_bytes, unacked, retransmits, backoff, probes, timer, snd_mss, rwnd_limited_us
  FROM connected
  -- What a subflow received waits in its MPTCP connection, and it is never accepted itself.
  WHERE recv_q > 0 AND (subflow IS NULL OR NOT subflow)
  UNION ALL
  SELECT
    netns, cookie, 'Send-Q' AS queue, sample, sample_time, t_us, state,
    local_addr, local_port, peer_addr, peer_port, pid, comm, inode,
    send_q - CASE WHEN state IN ('FIN-WAIT-1', 'LAST-ACK', 'CLOSING') THEN 1 ELSE 0 END AS waiting_bytes,
    bytes_acked AS moved,
    snd_wnd AS window_bytes, unacked, retransmits, backoff, probes, timer, snd_mss, rwnd_limited_us
  FROM connected
  WHERE send_q > 0
),
stuck AS (
  SELECT netns, cookie, queue, moved, min(t_us) AS since_us, max(t_us) - min(t_us) AS stuck_us
  FROM waiting
  WHERE waiting_bytes > 0 AND moved IS NOT NULL
  GROUP BY netns, cookie, queue, moved
  -- Four samples are three intervals.
  HAVING count(*) >= 4
),
ranked AS (
  SELECT
    stuck.*,
    params.top,
    row_number() OVER (ORDER BY stuck_us DESC, netns, cookie, queue, since_us) AS place
  FROM stuck
  CROSS JOIN params
  WHERE stuck.stuck_us >= params.seconds * 1000000
),
seen AS (
  SELECT
    r.place,
    r.netns,
    r.cookie,
    r.queue,
    r.stuck_us,
    min(w.sample_time) AS since,
    max(w.sample_time) AS until,
    count(*) AS samples,
    any_value(w.local_addr) AS local_addr,
    any_value(w.local_port) AS local_port,
    any_value(w.peer_addr) AS peer_addr,
    any_value(w.peer_port) AS peer_port,
    max_by(w.pid, CASE WHEN w.pid IS NOT NULL THEN w.sample END) AS pid,
    max_by(w.comm, CASE WHEN w.comm IS NOT NULL THEN w.sample END) AS comm,
    max_by(w.inode, w.sample) AS inode,
    max_by(w.state, w.sample) AS state,
    max_by(w.waiting_bytes, w.sample) AS waiting_bytes,
    max_by(w.window_bytes, CASE WHEN w.window_bytes IS NOT NULL THEN w.sample END) AS window_bytes,
    max_by(w.unacked, CASE WHEN w.unacked IS NOT NULL THEN w.sample END) AS unacked,
    max(w.retransmits) AS timeouts,
    max(w.probes) AS probes,
    count(CASE WHEN w.timer = 'on' AND (w.retransmits > 0 OR w.backoff > 0) THEN 1 END) AS retransmitting,
    count(CASE WHEN w.timer = 'persist' OR w.window_bytes < w.snd_mss THEN 1 END) AS window_closed,
    max(CASE WHEN w.timer = 'persist' THEN w.probes END) AS unanswered,
    max(w.rwnd_limited_us) - min(w.rwnd_limited_us) AS held_up_us
  FROM ranked AS r
  JOIN waiting AS w
    ON w.netns = r.netns
    AND w.cookie = r.cookie
    AND w.queue = r.queue
    AND w.moved = r.moved
  WHERE w.waiting_bytes > 0 AND (r.top = 0 OR r.place <= r.top)
  GROUP BY r.place, r.netns, r.cookie, r.queue, r.stuck_us
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
  -- The other end, if it is on this host: its addresses are the same the other way round.
  SELECT
    j.place,
    max_by(s.pid, CASE WHEN s.pid IS NOT NULL THEN s.sample END) AS pid,
    max_by(s.comm, CASE WHEN s.comm IS NOT NULL THEN s.sample END) AS comm
  FROM judged AS j
  JOIN sockets AS s
    ON s.local_port = j.peer_port
    AND s.peer_port = j.local_port
  WHERE s.netid = 'tcp'
    AND s.state NOT IN ('LISTEN', 'TIME-WAIT')
    AND replace(s.local_addr, '::ffff:', '') = replace(j.peer_addr, '::ffff:', '')
    AND replace(s.peer_addr, '::ffff:', '') = replace(j.local_addr, '::ffff:', '')
    AND (s.netns = j.netns OR (s.local_addr NOT LIKE '%127.%' AND s.local_addr <> '::1'))
  GROUP BY j.place
)
SELECT
  j.queue AS queue,
  j.verdict AS verdict,
  CASE
    WHEN j.verdict IN ('reader stalled', 'not accepted') AND j.pid IS NOT NULL
      THEN concat(coalesce(j.comm, 'process'), ' (', CAST(j.pid AS VARCHAR), ')')
    WHEN j.verdict IN ('reader stalled', 'not accepted') THEN 'unknown process'
    WHEN j.verdict = 'peer stalled' AND o.pid IS NOT NULL
      THEN concat(coalesce(o.comm, 'process'), ' (', CAST(o.pid AS VARCHAR), ')')
    WHEN j.verdict = 'peer stalled' THEN concat('peer ', j.peer_addr)
    WHEN j.verdict = 'network' THEN concat('network to ', j.peer_addr)
  END AS culprit,
  j.comm AS comm,
  j.pid AS pid,
  CASE
    WHEN j.local_addr LIKE '%:%' THEN concat('[', j.local_addr, ']:', CAST(j.local_port AS VARCHAR))
    ELSE concat(j.local_addr, ':', CAST(j.local_port AS VARCHAR))
  END AS local,
  CASE
    WHEN j.peer_addr LIKE '%:%' THEN concat('[', j.peer_addr, ']:', CAST(j.peer_port AS VARCHAR))
    ELSE concat(j.peer_addr, ':', CAST(j.peer_port AS VARCHAR))
  END AS peer,
  j.state AS state,
  j.waiting_bytes AS waiting_bytes,
  round(j.stuck_us / 1000000.0, 1) AS stuck_s,
  j.since AS since,
  j.until AS until,
  j.window_bytes AS window_bytes,
  j.unacked AS unacked,
  j.timeouts AS timeouts,
  j.probes AS probes,
  j.netns AS netns,
  j.cookie AS cookie
FROM judged AS j
LEFT JOIN others AS o
  ON o.place = j.place
ORDER BY j.place
