-- title = "Connections from first to last"
-- description = """
-- One row per TCP, MPTCP, SCTP or DCCP connection of this end: what is known of it from all samples
-- and from the kernel's announcement of its end. A connection over loopback has a row for each end.
-- One that lived between two samples is known by its announcement alone: samples is 0, and its
-- TIME-WAIT row, which bears another cookie, is joined by addresses, ports and time. A socket that
-- reset its connection, or whose attempt to connect failed, has lost its peer and its totals in the
-- kernel: closed_first says reset. What is not known is nothing, never 0.
-- """
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
-- family = "Address family: inet or inet6."
-- netid = "Kind of socket: tcp, mptcp, sctp or dccp; the TCP subflows of MPTCP are left out."
-- local_addr = "Local address."
-- local_port = "Local port."
-- peer_addr = "Peer address; nothing where the kernel has cleared it."
-- peer_port = "Peer port; nothing where the kernel has cleared it."
-- role = "server if the local port was listened on, else client; nothing if the sockets were never seen."
-- pid = "Process that held the socket last, as far as known."
-- start_us = "Start of that process after boot."
-- comm = "Name of that process."
-- user = "Name of the socket's user."
-- owner_by = "How the owner is known: fd, carried or listener."
-- first_us = "First moment it is known of, in microseconds UTC."
-- last_us = "Last moment it is known of, TIME-WAIT left out."
-- first_time = "The same as a time."
-- last_time = "The same as a time."
-- samples = "Samples that show it; 0 if it lived between two."
-- opened = "before: it was there when its namespace was first sampled; during: it came later."
-- closed = "seen: announced by the kernel or seen in TIME-WAIT; inferred: gone from a later sample; before: in TIME-WAIT when its namespace was first sampled; nothing: open at the end."
-- closed_us = "When: of the announcement, else of the last sample that showed it, or of the first that showed its TIME-WAIT if that is all that is known; nothing if before."
-- closed_first = "Which end closed first: local, peer, both, or reset if this end reset it or never got it open."
-- attempt = "failed if it never got open."
-- last_state = "Last state that a sample showed."
-- syn_sent_us = "First sample that showed it in SYN-SENT."
-- syn_recv_us = "First sample that showed it in SYN-RECV."
-- estab_us = "First sample that showed it in ESTAB."
-- fin_wait_us = "First sample that showed it in FIN-WAIT-1 or FIN-WAIT-2."
-- close_wait_us = "First sample that showed it in CLOSE-WAIT."
-- closing_us = "First sample that showed it in CLOSING."
-- last_ack_us = "First sample that showed it in LAST-ACK."
-- time_wait_us = "First sample that showed it in TIME-WAIT."
-- time_wait_cookie = "Cookie of its TIME-WAIT rows, where it is another."
-- duration_us = "From its first to its last moment known: at least so long; nothing if it was open before."
-- duration_max_us = "From the sample before to the sample after: at most so long; nothing if it was open before, or still is."
-- bytes_sent = "Sent over its whole life, retransmissions included."
-- bytes_received = "Received over its whole life; a FIN counts as one."
-- bytes_acked = "Acknowledged by the peer; SYN and FIN count one each."
-- bytes_retrans = "Retransmitted."
-- segs_out = "Segments sent."
-- segs_in = "Segments received."
-- data_segs_out = "Segments sent with data."
-- data_segs_in = "Segments received with data."
-- total_retrans = "Segments retransmitted."
-- total_rto = "Retransmission timeouts."
-- rtt_us = "Smoothed round-trip time, the last one known."
-- min_rtt_us = "Smallest round-trip time."
-- rtt_max_us = "Worst smoothed round-trip time known."
-- recv_q_peak = "Most bytes that waited to be read in a sample."
-- send_q_peak = "Most bytes that waited to be acknowledged in a sample."
-- busy_time_us = "Time with data in flight or queued."
-- rwnd_limited_us = "Time held up by the peer's receive window."
-- sndbuf_limited_us = "Time held up by the own send buffer."
WITH connected AS (
  SELECT
    *,
    -- What is left of a closed connection: in TIME-WAIT, or without a process in FIN-WAIT-2.
    CASE
      WHEN state = 'TIME-WAIT' OR (state = 'FIN-WAIT-2' AND timer = 'timewait') THEN 1
      ELSE 0
    END AS remains
  FROM sockets
  WHERE netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
    AND state NOT IN ('LISTEN', 'UNCONN')
    AND (subflow IS NULL OR NOT subflow)
),
sampled AS (
  SELECT
    netns,
    cookie,
    netid,
    any_value(family) AS family,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us,
    max_by(comm, sample) AS comm,
    any_value(user) AS user,
    max_by(owner_by, sample) AS owner_by,
    count(*) AS samples,
    min(sample) AS first_sample,
    min(t_us) AS first_us,
    max(CASE WHEN remains = 0 THEN sample END) AS last_sample,
    max(CASE WHEN remains = 0 THEN t_us END) AS last_us,
    max(sample) AS last_row,
    max_by(state, sample) AS last_state,
    min(CASE WHEN state = 'SYN-SENT' THEN t_us END) AS syn_sent_us,
    min(CASE WHEN state = 'SYN-RECV' THEN t_us END) AS syn_recv_us,
    min(CASE WHEN state = 'ESTAB' THEN t_us END) AS estab_us,
    min(CASE WHEN state IN ('FIN-WAIT-1', 'FIN-WAIT-2') THEN t_us END) AS fin_wait_us,
    min(CASE WHEN state = 'CLOSE-WAIT' THEN t_us END) AS close_wait_us,
    min(CASE WHEN state = 'CLOSING' THEN t_us END) AS closing_us,
    min(CASE WHEN state = 'LAST-ACK' THEN t_us END) AS last_ack_us,
    min(CASE WHEN state = 'TIME-WAIT' THEN t_us END) AS time_wait_us,
    min(CASE WHEN remains = 1 THEN t_us END) AS remains_us,
    max(bytes_sent) AS bytes_sent,
    max(bytes_received) AS bytes_received,
    max(bytes_acked) AS bytes_acked,
    max(bytes_retrans) AS bytes_retrans,
    max(segs_out) AS segs_out,
    max(segs_in) AS segs_in,
    max(data_segs_out) AS data_segs_out,
    max(data_segs_in) AS data_segs_in,
    max(total_retrans) AS total_retrans,
    max(total_rto) AS total_rto,
    max_by(rtt_us, sample) AS rtt_us,
    min(min_rtt_us) AS min_rtt_us,
    max(rtt_us) AS rtt_max_us,
    max(recv_q) AS recv_q_peak,
    max(send_q) AS send_q_peak,
    max(busy_time_us) AS busy_time_us,
    max(rwnd_limited_us) AS rwnd_limited_us,
    max(sndbuf_limited_us) AS sndbuf_limited_us
  FROM connected
  GROUP BY netns, cookie, netid
),
ends AS (
  -- What reset itself has neither peer nor totals left; send_q is its sequence number then.
  SELECT
    netns,
    cookie,
    netid,
    family,
    local_addr,
    local_port,
    CASE WHEN peer_port <> 0 THEN peer_addr END AS peer_addr,
    nullif(peer_port, 0) AS peer_port,
    pid,
    start_us,
    comm,
    owner_by,
    sampled,
    sample,
    t_us,
    recv_q,
    CASE WHEN peer_port <> 0 THEN bytes_sent END AS bytes_sent,
    CASE WHEN peer_port <> 0 THEN bytes_received END AS bytes_received,
    CASE WHEN peer_port <> 0 THEN bytes_acked END AS bytes_acked,
    CASE WHEN peer_port <> 0 THEN bytes_retrans END AS bytes_retrans,
    CASE WHEN peer_port <> 0 THEN segs_out END AS segs_out,
    CASE WHEN peer_port <> 0 THEN segs_in END AS segs_in,
    CASE WHEN peer_port <> 0 THEN data_segs_out END AS data_segs_out,
    CASE WHEN peer_port <> 0 THEN data_segs_in END AS data_segs_in,
    CASE WHEN peer_port <> 0 THEN total_retrans END AS total_retrans,
    CASE WHEN peer_port <> 0 THEN total_rto END AS total_rto,
    CASE WHEN peer_port <> 0 THEN nullif(rtt_us, 0) END AS rtt_us,
    CASE WHEN peer_port <> 0 THEN min_rtt_us END AS min_rtt_us,
    CASE WHEN peer_port <> 0 THEN busy_time_us END AS busy_time_us,
    CASE WHEN peer_port <> 0 THEN rwnd_limited_us END AS rwnd_limited_us,
    CASE WHEN peer_port <> 0 THEN sndbuf_limited_us END AS sndbuf_limited_us
  FROM closes
  WHERE connection
),
waits AS (
  -- TIME-WAIT alone: it has another cookie than the announcement, if no sample had shown it before.
  SELECT
    s.netns,
    s.cookie,
    s.local_addr,
    s.local_port,
    s.peer_addr,
    s.peer_port,
    s.fin_wait_us,
    s.time_wait_us,
    s.remains_us
  FROM sampled AS s
  WHERE s.last_sample IS NULL
    AND NOT EXISTS (SELECT 1 FROM ends AS e WHERE e.netns = s.netns AND e.cookie = s.cookie)
),
matches AS (
  SELECT
    w.netns,
    w.cookie AS time_wait_cookie,
    w.fin_wait_us,
    w.time_wait_us,
    e.cookie,
    row_number() OVER (PARTITION BY w.netns, w.cookie ORDER BY e.t_us DESC, e.cookie) AS wait_place,
    row_number() OVER (PARTITION BY e.netns, e.cookie ORDER BY w.remains_us, w.cookie) AS end_place
  FROM waits AS w
  JOIN ends AS e
    ON e.netns = w.netns
    AND e.local_addr = w.local_addr
    AND e.local_port = w.local_port
    AND e.peer_addr = w.peer_addr
    AND e.peer_port = w.peer_port
  WHERE NOT e.sampled
    -- The kernel keeps TIME-WAIT for a minute; announcements may come a little late.
    AND e.t_us BETWEEN w.remains_us - 61000000 AND w.remains_us + 1000000
),
matched AS (
  SELECT netns, cookie, time_wait_cookie, fin_wait_us, time_wait_us
  FROM matches
  WHERE wait_place = 1 AND end_place = 1
),
known AS (
  SELECT
    coalesce(s.netns, e.netns) AS netns,
    coalesce(s.cookie, e.cookie) AS cookie,
    coalesce(s.family, e.family) AS family,
    coalesce(s.netid, e.netid) AS netid,
    coalesce(s.local_addr, e.local_addr) AS local_addr,
    coalesce(s.local_port, e.local_port) AS local_port,
    coalesce(s.peer_addr, e.peer_addr) AS peer_addr,
    coalesce(s.peer_port, e.peer_port) AS peer_port,
    CASE WHEN s.pid IS NOT NULL THEN s.pid ELSE e.pid END AS pid,
    CASE WHEN s.pid IS NOT NULL THEN s.start_us ELSE e.start_us END AS start_us,
    CASE WHEN s.pid IS NOT NULL THEN s.comm ELSE e.comm END AS comm,
    s.user,
    CASE WHEN s.pid IS NOT NULL THEN s.owner_by ELSE e.owner_by END AS owner_by,
    coalesce(s.samples, 0) AS samples,
    s.first_sample,
    s.last_sample,
    s.last_row,
    CASE WHEN s.cookie IS NULL AND e.sampled THEN 1 ELSE 0 END AS shown_before,
    coalesce(s.first_us, e.t_us) AS first_us,
    -- Of what is known by its remains alone the end is when they were first seen.
    coalesce(s.last_us, s.remains_us) AS last_us,
    e.t_us AS end_us,
    e.sample AS end_sample,
    e.recv_q AS end_recv_q,
    CASE WHEN e.cookie IS NOT NULL AND e.peer_port IS NULL THEN 1 ELSE 0 END AS reset,
    s.last_state,
    s.syn_sent_us,
    s.syn_recv_us,
    s.estab_us,
    coalesce(s.fin_wait_us, m.fin_wait_us) AS fin_wait_us,
    s.close_wait_us,
    s.closing_us,
    s.last_ack_us,
    coalesce(s.time_wait_us, m.time_wait_us) AS time_wait_us,
    m.time_wait_cookie,
    coalesce(e.bytes_sent, s.bytes_sent) AS bytes_sent,
    coalesce(e.bytes_received, s.bytes_received) AS bytes_received,
    coalesce(e.bytes_acked, s.bytes_acked) AS bytes_acked,
    coalesce(e.bytes_retrans, s.bytes_retrans) AS bytes_retrans,
    coalesce(e.segs_out, s.segs_out) AS segs_out,
    coalesce(e.segs_in, s.segs_in) AS segs_in,
    coalesce(e.data_segs_out, s.data_segs_out) AS data_segs_out,
    coalesce(e.data_segs_in, s.data_segs_in) AS data_segs_in,
    coalesce(e.total_retrans, s.total_retrans) AS total_retrans,
    coalesce(e.total_rto, s.total_rto) AS total_rto,
    coalesce(e.rtt_us, s.rtt_us) AS rtt_us,
    CASE WHEN e.min_rtt_us < s.min_rtt_us THEN e.min_rtt_us ELSE coalesce(s.min_rtt_us, e.min_rtt_us) END AS min_rtt_us,
    CASE WHEN e.rtt_us > s.rtt_max_us THEN e.rtt_us ELSE coalesce(s.rtt_max_us, e.rtt_us) END AS rtt_max_us,
    s.recv_q_peak,
    s.send_q_peak,
    coalesce(e.busy_time_us, s.busy_time_us) AS busy_time_us,
    coalesce(e.rwnd_limited_us, s.rwnd_limited_us) AS rwnd_limited_us,
    coalesce(e.sndbuf_limited_us, s.sndbuf_limited_us) AS sndbuf_limited_us
  FROM sampled AS s
  FULL JOIN ends AS e
    ON e.netns = s.netns
    AND e.cookie = s.cookie
  LEFT JOIN matched AS m
    ON m.netns = e.netns
    AND m.cookie = e.cookie
  WHERE NOT EXISTS (
    SELECT 1
    -- Where ports are taken again at once it is one of several, whichever: none is counted twice.
    FROM matches AS taken
    WHERE taken.netns = s.netns
      AND taken.time_wait_cookie = s.cookie
  )
),
looks AS (
  SELECT netns, netid, sample, min(t_us) AS t_us
  FROM (
    SELECT
      netns,
      CASE WHEN step LIKE '%6' THEN substr(step, 1, length(step) - 1) ELSE step END AS netid,
      sample,
      t_us,
      CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END AS seen
    FROM samples
    WHERE step IN ('tcp', 'tcp6', 'mptcp', 'mptcp6', 'sctp', 'sctp6', 'dccp', 'dccp6')
    UNION ALL
    SELECT s.netns, kinds.netid, s.sample, s.t_us, CASE WHEN s.outcome = 'skipped_empty' THEN 1 ELSE 0 END AS seen
    FROM samples AS s
    CROSS JOIN (
      SELECT 'tcp' AS netid
      UNION ALL
      SELECT 'mptcp' AS netid
      UNION ALL
      SELECT 'sctp' AS netid
      UNION ALL
      SELECT 'dccp' AS netid
    ) AS kinds
    WHERE s.step = 'all'
    UNION ALL
    -- A file of sockets alone does not say what was read.
    SELECT DISTINCT netns, netid, sample, t_us, 1 AS seen
    FROM sockets
    WHERE netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
      AND state NOT IN ('LISTEN', 'UNCONN')
      AND (SELECT count(*) FROM samples) = 0
  ) AS steps
  GROUP BY netns, netid, sample
  HAVING min(seen) = 1
),
neighbours AS (
  SELECT
    netns,
    netid,
    sample,
    t_us,
    lag(t_us) OVER (PARTITION BY netns, netid ORDER BY sample) AS former_us,
    lead(t_us) OVER (PARTITION BY netns, netid ORDER BY sample) AS next_us,
    max(sample) OVER (PARTITION BY netns, netid) AS last_sample,
    min(t_us) OVER (PARTITION BY netns, netid) AS begun_us
  FROM looks
),
doors AS (
  -- Of the whole recording: --where may choose no listener.
  SELECT DISTINCT netns, local_port
  FROM raw.sockets
  WHERE state = 'LISTEN' AND netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
),
readable AS (
  SELECT netns, netid, min(begun_us) AS begun_us, max(last_sample) AS last_sample
  FROM neighbours
  GROUP BY netns, netid
),
judged AS (
  SELECT
    k.*,
    CASE
      WHEN k.syn_sent_us IS NOT NULL THEN 'client'
      WHEN k.syn_recv_us IS NOT NULL OR k.owner_by = 'listener' OR d.local_port IS NOT NULL THEN 'server'
      WHEN r.netns IS NOT NULL THEN 'client'
    END AS role,
    CASE
      WHEN k.shown_before = 1 OR b.cookie IS NOT NULL OR k.first_us <= r.begun_us THEN 'before'
      ELSE 'during'
    END AS opened,
    CASE
      WHEN k.end_us IS NOT NULL OR k.last_sample IS NOT NULL AND k.time_wait_us IS NOT NULL THEN 'seen'
      WHEN k.time_wait_us IS NOT NULL AND (k.time_wait_us <= r.begun_us OR b.cookie IS NOT NULL)
        THEN 'before'
      WHEN k.time_wait_us IS NOT NULL THEN 'seen'
      WHEN k.last_row < r.last_sample THEN 'inferred'
    END AS closed,
    -- An announcement bears the number of the sample to come.
    CASE WHEN k.samples = 0 THEN earlier.t_us ELSE first.former_us END AS former_us,
    last.next_us
  FROM known AS k
  LEFT JOIN readable AS r
    ON r.netns = k.netns
    AND r.netid = k.netid
  LEFT JOIN doors AS d
    ON d.netns = k.netns
    AND d.local_port = k.local_port
  LEFT JOIN (SELECT DISTINCT netns, cookie FROM baseline) AS b
    ON b.netns = k.netns
    AND b.cookie = k.cookie
  LEFT JOIN neighbours AS first
    ON first.netns = k.netns
    AND first.netid = k.netid
    AND first.sample = k.first_sample
  LEFT JOIN neighbours AS last
    ON last.netns = k.netns
    AND last.netid = k.netid
    AND last.sample = k.last_sample
  LEFT JOIN neighbours AS earlier
    ON earlier.netns = k.netns
    AND earlier.netid = k.netid
    AND earlier.sample = k.end_sample - 1
),
ended AS (
  SELECT
    j.*,
    CASE
      WHEN j.end_us IS NOT NULL THEN j.end_us
      WHEN j.closed IN ('seen', 'inferred') THEN j.last_us
    END AS closed_us,
    CASE
      WHEN j.estab_us IS NULL
        AND j.fin_wait_us IS NULL
        AND j.close_wait_us IS NULL
        AND j.closing_us IS NULL
        AND j.last_ack_us IS NULL
        AND j.time_wait_us IS NULL
        AND j.closed IS NOT NULL
        AND j.netid = 'tcp'
        AND (
          ((j.syn_sent_us IS NOT NULL OR j.syn_recv_us IS NOT NULL) AND coalesce(j.bytes_acked, 0) = 0)
          -- A connection that this end opened has at least its SYN acknowledged.
          OR (j.role = 'client' AND j.bytes_acked = 0 AND j.bytes_received = 0)
        )
        THEN 'failed'
    END AS attempt
  FROM judged AS j
)
SELECT
  e.netns AS netns,
  e.cookie AS cookie,
  e.family AS family,
  e.netid AS netid,
  e.local_addr AS local_addr,
  e.local_port AS local_port,
  e.peer_addr AS peer_addr,
  e.peer_port AS peer_port,
  e.role AS role,
  e.pid AS pid,
  e.start_us AS start_us,
  e.comm AS comm,
  e.user AS user,
  e.owner_by AS owner_by,
  e.first_us AS first_us,
  coalesce(e.closed_us, e.last_us) AS last_us,
  make_timestamp(e.first_us) AS first_time,
  make_timestamp(coalesce(e.closed_us, e.last_us)) AS last_time,
  e.samples AS samples,
  e.opened AS opened,
  e.closed AS closed,
  e.closed_us AS closed_us,
  CASE
    WHEN e.attempt = 'failed' OR e.closed IS NULL THEN NULL
    WHEN e.closing_us IS NOT NULL THEN 'both'
    WHEN e.close_wait_us IS NOT NULL OR e.last_ack_us IS NOT NULL THEN 'peer'
    WHEN e.fin_wait_us IS NOT NULL OR e.time_wait_us IS NOT NULL THEN 'local'
    WHEN e.reset = 1 THEN 'reset'
    -- The end that closed first never reads the other's FIN.
    WHEN e.end_recv_q > 0 THEN 'local'
    WHEN e.end_recv_q = 0 THEN 'peer'
  END AS closed_first,
  e.attempt AS attempt,
  e.last_state AS last_state,
  e.syn_sent_us AS syn_sent_us,
  e.syn_recv_us AS syn_recv_us,
  e.estab_us AS estab_us,
  e.fin_wait_us AS fin_wait_us,
  e.close_wait_us AS close_wait_us,
  e.closing_us AS closing_us,
  e.last_ack_us AS last_ack_us,
  e.time_wait_us AS time_wait_us,
  e.time_wait_cookie AS time_wait_cookie,
  CASE
    WHEN e.opened = 'during' AND (e.end_us IS NOT NULL OR e.last_sample IS NOT NULL)
      THEN coalesce(e.closed_us, e.last_us) - e.first_us
  END AS duration_us,
  CASE
    WHEN e.opened = 'before' OR e.closed IS NULL THEN NULL
    ELSE coalesce(e.end_us, e.next_us) - e.former_us
  END AS duration_max_us,
  e.bytes_sent AS bytes_sent,
  e.bytes_received AS bytes_received,
  e.bytes_acked AS bytes_acked,
  e.bytes_retrans AS bytes_retrans,
  e.segs_out AS segs_out,
  e.segs_in AS segs_in,
  e.data_segs_out AS data_segs_out,
  e.data_segs_in AS data_segs_in,
  e.total_retrans AS total_retrans,
  e.total_rto AS total_rto,
  e.rtt_us AS rtt_us,
  e.min_rtt_us AS min_rtt_us,
  e.rtt_max_us AS rtt_max_us,
  e.recv_q_peak AS recv_q_peak,
  e.send_q_peak AS send_q_peak,
  e.busy_time_us AS busy_time_us,
  e.rwnd_limited_us AS rwnd_limited_us,
  e.sndbuf_limited_us AS sndbuf_limited_us
FROM ended AS e
