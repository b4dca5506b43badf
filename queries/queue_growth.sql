-- title = "Queues that grow"
-- description = """
-- Sockets whose Recv-Q or Send-Q was not empty in successive samples, each with its worst such
-- spell; first where most bytes waited longest for another reason than a busy transfer, then those
-- that grew most. culprit names who must act. reader stalled: the process that holds the socket
-- reads too slowly or not at all, so that its receive buffer is full; moved_bytes_per_s says how
-- slowly. not accepted: the listening process has not accepted the connection. peer stalled: the
-- peer has closed its window or opens it too slowly, as its process does not read; culprit is that
-- process if it runs on this host, where its own Recv-Q has a row too. network: what was sent is not
-- acknowledged; see report retransmits. sndbuf: the sender's own buffer is too small (SO_SNDBUF,
-- tcp_wmem). moves: the queue is being worked off, as in any busy transfer. No verdict: the kernel
-- reported too little. Only TCP counts the bytes it moves: elsewhere a queue counts as stuck while
-- its length stays the same, and its reader as too slow while it grows (Recv-Q of unix datagrams is
-- the length of the first one). Of MPTCP connections the Recv-Q is their own, the Send-Q that of
-- their TCP subflows. Netlink is left out; listeners have a report of their own, listen_queues.
-- """
-- needs = ["sockets"]
-- uses = ["culprit", "endpoint", "history", "is_certain", "netns_of", "opposite"]
-- ranks = [
--   "queue", "verdict", "culprit", "local", "peer", "peak_bytes", "stuck_s", "comm", "pid", "since", "until",
--   "moved_bytes_per_s", "duration_s",
-- ]
--
-- [columns]
-- queue = "Recv-Q: received and not read by the process; Send-Q: not acknowledged by the peer."
-- verdict = "Why, in the words above: what held in half of its samples at least."
-- culprit = "The process that must act, else the peer or the network to it; empty if all moves."
-- comm = "Name of the process that holds the socket."
-- pid = "Process that holds it."
-- netid = "Kind of socket, as ss prints it."
-- local = "Local address and port; of a unix socket its name."
-- peer = "Peer address and port."
-- peak_bytes = "Most bytes in the queue in a sample."
-- last_bytes = "Bytes in the last sample of the spell."
-- growth_bytes_per_s = "How fast it grew, from the beginning of the spell to the peak; empty if it was at its peak at once."
-- moved_bytes_per_s = "How fast the process read, or the peer acknowledged, over the spell; empty if the kernel does not tell."
-- stuck_s = "Seconds of the spell in which not one byte moved."
-- duration_s = "Seconds from the first to the last sample of the spell."
-- since = "First sample with something in the queue, UTC."
-- until = "Last such sample, UTC."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many queues are listed; 0 lists all. Unless 0, only the 10,000 queues with most bytes over all samples are looked at."
--
-- [chart]
-- mark = "bar"
-- x = { field = "peak_bytes", type = "quantitative" }
-- y = { field = "local", sort = "-x" }
-- color = { field = "verdict" }
WITH waiting AS (
  SELECT ns, cookie, 'Recv-Q' AS queue, recv_q AS bytes
  FROM sockets
  WHERE recv_q > CAST(state IN ('CLOSE-WAIT', 'LAST-ACK', 'CLOSING') AS INT)
    AND state <> 'LISTEN'
    AND (subflow IS NULL OR NOT subflow)
    -- Netlink shows the recorder's own questions; tipc counts packets.
    AND netid NOT IN ('nl', 'ti_st', 'ti_dg', 'ti_rd', 'ti_sq')
  UNION ALL
  SELECT ns, cookie, 'Send-Q' AS queue, send_q AS bytes
  FROM sockets
  WHERE send_q > CAST(state IN ('FIN-WAIT-1', 'LAST-ACK', 'CLOSING', 'SYN-SENT') AS INT)
    AND state <> 'LISTEN'
    AND netid NOT IN ('mptcp', 'nl', 'ti_st', 'ti_dg', 'ti_rd', 'ti_sq')
),
hot AS (
  SELECT ns, cookie, queue, row_number() OVER (ORDER BY sum(bytes) DESC, ns, cookie, queue) AS place
  FROM waiting CROSS JOIN params
  GROUP BY ns, cookie, queue, params.top
  QUALIFY params.top = 0 OR place <= 10000
),
looks AS (
  -- A SYN and a FIN count as a byte in a queue, and are no data.
  SELECT
    s.ns, s.cookie, s.sample, s.sample_time, s.t_us, s.netid, s.state, s.local_addr, s.local_port, s.peer_addr, s.peer_port,
    s.peer_inode, s.inode, s.pid, s.comm, s.timer, s.retransmits, s.backoff, s.probes, s.unacked, s.drops,
    s.rcv_wnd, s.rcv_mss, s.snd_wnd, s.snd_mss, s.rmem_alloc, s.rcvbuf, s.rwnd_limited_us, s.sndbuf_limited_us, h.queue,
    CASE
      WHEN h.queue = 'Recv-Q' AND s.recv_q > 0 AND s.state IN ('CLOSE-WAIT', 'LAST-ACK', 'CLOSING') THEN s.recv_q - 1
      WHEN h.queue = 'Recv-Q' THEN s.recv_q
      WHEN s.send_q > 0 AND s.state IN ('FIN-WAIT-1', 'LAST-ACK', 'CLOSING', 'SYN-SENT') THEN s.send_q - 1
      ELSE s.send_q
    END AS bytes,
    CASE WHEN h.queue = 'Recv-Q' THEN s.bytes_received - s.recv_q ELSE s.bytes_acked END AS moved
  FROM hot AS h JOIN history AS s USING (ns, cookie)
),
steps AS (
  SELECT
    looks.*,
    coalesce(lag(t_us) OVER queue_life, t_us) AS former_us,
    coalesce(lag(bytes) OVER queue_life, bytes) AS former_bytes,
    coalesce(lag(moved) OVER queue_life, moved) AS former_moved,
    CASE WHEN lag(bytes) OVER queue_life > 0 THEN 0 ELSE 1 END AS begins,
    rwnd_limited_us - lag(rwnd_limited_us) OVER queue_life AS window_us,
    sndbuf_limited_us - lag(sndbuf_limited_us) OVER queue_life AS buffer_us,
    drops - lag(drops) OVER queue_life AS dropped
  FROM looks
  WINDOW queue_life AS (PARTITION BY ns, cookie, queue ORDER BY sample)
),
stuck AS (
  SELECT
    steps.*, t_us - former_us AS step_us,
    CASE
      WHEN begins = 1 OR moved > former_moved THEN 0
      WHEN moved IS NULL AND bytes <> former_bytes THEN 0
      ELSE t_us - former_us
    END AS stuck_us,
    sum(begins) OVER (
      PARTITION BY ns, cookie, queue ORDER BY sample ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS spell
  FROM steps
  WHERE bytes > 0
),
judged AS (
  SELECT
    stuck.*,
    max(bytes) OVER (PARTITION BY ns, cookie, queue, spell) AS peak_bytes,
    CASE
      -- A connection gets its inode when it is accepted.
      WHEN queue = 'Recv-Q' AND netid = 'tcp' AND inode = 0 THEN 'not accepted'
      WHEN queue = 'Recv-Q' AND (stuck_us > 0 OR dropped > 0 OR rcv_wnd < rcv_mss OR 10 * rmem_alloc >= 9 * rcvbuf)
        THEN 'reader stalled'
      WHEN queue = 'Recv-Q' AND moved IS NULL AND bytes > former_bytes AND netid <> 'u_dgr' THEN 'reader stalled'
      WHEN queue = 'Recv-Q' AND (moved > former_moved OR bytes < former_bytes) THEN 'moves'
      WHEN queue = 'Recv-Q' THEN NULL
      WHEN timer = 'on' AND (retransmits > 0 OR backoff > 0) OR timer = 'persist' AND probes >= 3 THEN 'network'
      WHEN timer = 'persist' OR snd_wnd < snd_mss OR 2 * window_us >= step_us AND step_us > 0 THEN 'peer stalled'
      WHEN 2 * buffer_us >= step_us AND step_us > 0 THEN 'sndbuf'
      WHEN stuck_us > 0 AND unacked > 0 THEN 'network'
      WHEN stuck_us > 0 AND netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'peer stalled'
      WHEN moved > former_moved OR moved IS NULL AND bytes < former_bytes THEN 'moves'
    END AS verdict
  FROM stuck
),
spells AS (
  SELECT
    ns, cookie, queue, spell,
    min(sample_time) AS since, max(sample_time) AS until, max(t_us) - min(t_us) AS lasted_us,
    any_value(netid) AS netid, any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port, any_value(peer_inode) AS peer_inode,
    max_by(pid, sample) AS pid, max_by(comm, sample) AS comm,
    max(bytes) AS peak_bytes, max_by(bytes, sample) AS last_bytes,
    max(bytes) - min_by(former_bytes, sample) AS grown_bytes,
    min(t_us) FILTER (WHERE bytes = peak_bytes) - min(former_us) AS grown_us,
    max(moved) - min(former_moved) AS moved_bytes, max(t_us) - min(former_us) AS moved_us,
    sum(stuck_us) AS stuck_us,
    sum(CASE WHEN verdict <> 'moves' THEN CAST(bytes AS DOUBLE) * step_us ELSE 0 END) AS weight,
    CASE
      WHEN 2 * count(*) FILTER (WHERE verdict = 'not accepted') >= count(*) THEN 'not accepted'
      WHEN 2 * count(*) FILTER (WHERE verdict = 'reader stalled') >= count(*) THEN 'reader stalled'
      WHEN 2 * count(*) FILTER (WHERE verdict = 'network') >= count(*) THEN 'network'
      WHEN 2 * count(*) FILTER (WHERE verdict = 'peer stalled') >= count(*) THEN 'peer stalled'
      WHEN 2 * count(*) FILTER (WHERE verdict = 'sndbuf') >= count(*) THEN 'sndbuf'
      WHEN count(*) FILTER (WHERE verdict = 'moves') > 0 THEN 'moves'
    END AS verdict
  FROM judged
  GROUP BY ns, cookie, queue, spell
  HAVING count(*) >= 2
  QUALIFY row_number() OVER (
    PARTITION BY ns, cookie, queue ORDER BY weight DESC, grown_bytes DESC, lasted_us DESC, spell
  ) = 1
),
listed AS (
  SELECT
    spells.*, row_number() OVER (ORDER BY weight DESC, grown_bytes DESC, peak_bytes DESC, ns, cookie, queue) AS place
  FROM spells CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
),
culprits AS (
  SELECT place, max_by(pid, is_near + sample) AS pid, max_by(comm, is_near + sample) AS comm
  FROM (
    -- The other end, if it is on this host: of the same addresses in several namespaces the own one.
    SELECT l.place, l.ns, s.ns AS other_ns, CASE WHEN s.ns = l.ns THEN 4294967296 ELSE 0 END AS is_near, s.sample, s.pid, s.comm
    FROM listed AS l
    JOIN sockets AS s
      ON opposite(
        s.ns, s.local_addr, s.local_port, s.peer_addr, s.peer_port, l.ns, l.local_addr, l.local_port, l.peer_addr, l.peer_port
      )
      AND s.netid = l.netid
    WHERE l.verdict = 'peer stalled' AND s.pid IS NOT NULL AND s.state NOT IN ('LISTEN', 'TIME-WAIT')
    UNION ALL
    SELECT l.place, l.ns, l.ns AS other_ns, 0 AS is_near, s.sample, s.pid, s.comm
    FROM listed AS l JOIN sockets AS s ON s.inode = l.peer_inode AND s.netid = l.netid
    WHERE l.verdict = 'peer stalled' AND s.pid IS NOT NULL AND s.inode > 0
  ) AS others
  GROUP BY place
  HAVING is_certain(ns, other_ns)
)
SELECT
  l.queue, l.verdict, culprit(l.verdict, l.comm, l.pid, c.comm, c.pid, l.peer_addr) AS culprit, l.comm, l.pid, l.netid,
  endpoint(l.local_addr, l.local_port) AS local, endpoint(l.peer_addr, l.peer_port) AS peer, l.peak_bytes, l.last_bytes,
  round(1000000.0 * l.grown_bytes / nullif(l.grown_us, 0), 1) AS growth_bytes_per_s,
  round(1000000.0 * l.moved_bytes / nullif(l.moved_us, 0), 1) AS moved_bytes_per_s,
  round(l.stuck_us / 1000000.0, 1) AS stuck_s, round(l.lasted_us / 1000000.0, 1) AS duration_s,
  l.since, l.until, netns_of(l.ns) AS netns, l.cookie
FROM listed AS l LEFT JOIN culprits AS c USING (place)
ORDER BY l.place
