-- title = "Connections from first to last"
-- description = """
-- One row per TCP, MPTCP, SCTP or DCCP connection of this end: what is known of it from all samples
-- and from the kernel's announcement of its end. A connection over loopback has a row for each end.
-- One that lived between two samples is known by its announcement alone: samples is 0, and its
-- TIME-WAIT row, which bears another cookie, is joined by addresses, ports and time. A socket that
-- reset its connection, or whose attempt to connect failed, has lost its peer and its totals in the
-- kernel: closed_first says reset. What is not known is nothing, never 0.
-- """
-- uses = ["endpoint", "netns_of", "table_reads", "who"]
--
-- [columns]
-- host = "Host that was recorded."
-- boot = "Boot of that host."
-- ns = "Network namespace of one boot of one host, the key together with cookie."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
-- family = "Address family: inet or inet6."
-- netid = "Kind of socket: tcp, mptcp, sctp or dccp; the TCP subflows of MPTCP are left out."
-- local_addr = "Local address."
-- local_port = "Local port."
-- peer_addr = "Peer address; nothing where the kernel has cleared it."
-- peer_port = "Peer port; nothing where the kernel has cleared it."
-- local = "Local address and port; nothing where the kernel has cleared it."
-- peer = "Peer address and port; nothing where the kernel has cleared them."
-- role = "server if the local port was listened on, else client; nothing if the sockets were never seen."
-- pid = "Process that held the socket last, as far as known."
-- start_us = "Start of that process after boot."
-- comm = "Name of that process."
-- who = "Name and number of that process."
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
-- reset_by = "local: this end reset it or never got it open, or closed with data unread, which resets it too; peer: the peer did, before it had acknowledged all. Nothing if it was not reset, or nothing was lost by it."
-- lost_bytes = "Of a connection that was reset: what the peer never acknowledged, or this end never read."
-- lost_idle_us = "Of one that the peer reset: how long it had been idle when this end last sent something, from the last byte received."
-- peer_idle_us = "Of one that the peer reset: how long it had been idle when the peer last acknowledged, as its FIN does."
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
  -- What is left of a closed connection: in TIME-WAIT, or without a process in FIN-WAIT-2.
  SELECT *, state = 'TIME-WAIT' OR (state = 'FIN-WAIT-2' AND coalesce(timer = 'timewait', false)) AS remains
  FROM sockets
  WHERE netid IN ('tcp', 'mptcp', 'sctp', 'dccp') AND state NOT IN ('LISTEN', 'UNCONN') AND (subflow IS NULL OR NOT subflow)
),
sampled AS (
  SELECT
    ns, cookie, netid, any_value(host) AS host, any_value(boot) AS boot, any_value(family) AS family,
    any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    any_value(user) AS user, max_by(owner_by, sample) AS owner_by,
    count(*) AS samples, min(sample) AS first_sample, min(t_us) AS first_us,
    max(CASE WHEN NOT remains THEN sample END) AS last_sample, max(CASE WHEN NOT remains THEN t_us END) AS last_us,
    max(sample) AS last_row, max_by(state, sample) AS last_state,
    min(CASE WHEN state = 'SYN-SENT' THEN t_us END) AS syn_sent_us,
    min(CASE WHEN state = 'SYN-RECV' THEN t_us END) AS syn_recv_us,
    min(CASE WHEN state = 'ESTAB' THEN t_us END) AS estab_us,
    min(CASE WHEN state IN ('FIN-WAIT-1', 'FIN-WAIT-2') THEN t_us END) AS fin_wait_us,
    min(CASE WHEN state = 'CLOSE-WAIT' THEN t_us END) AS close_wait_us,
    min(CASE WHEN state = 'CLOSING' THEN t_us END) AS closing_us,
    min(CASE WHEN state = 'LAST-ACK' THEN t_us END) AS last_ack_us,
    min(CASE WHEN state = 'TIME-WAIT' THEN t_us END) AS time_wait_us,
    min(CASE WHEN remains THEN t_us END) AS remains_us,
    max(bytes_sent) AS bytes_sent, max(bytes_received) AS bytes_received, max(bytes_acked) AS bytes_acked,
    max(bytes_retrans) AS bytes_retrans, max(segs_out) AS segs_out, max(segs_in) AS segs_in,
    max(data_segs_out) AS data_segs_out, max(data_segs_in) AS data_segs_in,
    max(total_retrans) AS total_retrans, max(total_rto) AS total_rto,
    max_by(rtt_us, sample) AS rtt_us, min(min_rtt_us) AS min_rtt_us, max(rtt_us) AS rtt_max_us,
    max(recv_q) AS recv_q_peak, max(send_q) AS send_q_peak, max(busy_time_us) AS busy_time_us,
    max(rwnd_limited_us) AS rwnd_limited_us, max(sndbuf_limited_us) AS sndbuf_limited_us
  FROM connected
  GROUP BY ns, cookie, netid
),
ends AS (
  SELECT
    host, boot, ns, cookie, netid, family, local_addr, local_port, pid, start_us, comm, owner_by, sampled, sample,
    t_us, recv_q, nullif(peer_port, 0) AS peer_port,
    -- More than its FIN, which counts as one. What was sent again and again in vain timed out, as a rule.
    CASE
      WHEN netid = 'tcp' AND peer_port <> 0 AND recv_q > 1 THEN 'local'
      WHEN netid = 'tcp' AND peer_port <> 0 AND send_q > 1 AND retransmits = 0 THEN 'peer'
      WHEN netid = 'tcp' AND peer_port = 0 THEN 'local'
    END AS reset_by,
    CASE WHEN peer_port = 0 THEN NULL WHEN recv_q > 1 THEN recv_q ELSE send_q END AS lost_bytes,
    1000 * greatest(last_data_recv_ms - last_data_sent_ms, 0) AS lost_idle_us,
    1000 * greatest(last_data_recv_ms - last_ack_recv_ms, 0) AS peer_idle_us,
    -- What reset itself has neither peer nor totals left; send_q is its sequence number then.
    CASE WHEN peer_port <> 0 THEN peer_addr END AS peer_addr,
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
shared AS (
  -- No process holds the TCP connection that SMC makes for one of its own; one holds that of the same ends.
  SELECT
    ns, local_addr, local_port, peer_addr, peer_port,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    max_by(owner_by, sample) AS owner_by
  FROM sockets
  WHERE netid = 'smc' AND pid IS NOT NULL AND peer_port <> 0
  GROUP BY ns, local_addr, local_port, peer_addr, peer_port
),
waits AS (
  -- TIME-WAIT alone: it has another cookie than the announcement, if no sample had shown it before.
  SELECT s.ns, s.cookie, s.local_addr, s.local_port, s.peer_addr, s.peer_port, s.fin_wait_us, s.time_wait_us, s.remains_us
  FROM sampled AS s ANTI JOIN ends AS e USING (ns, cookie)
  WHERE s.last_sample IS NULL
),
matches AS (
  SELECT
    w.ns, w.cookie AS time_wait_cookie, w.fin_wait_us, w.time_wait_us, e.cookie,
    row_number() OVER (PARTITION BY w.ns, w.cookie ORDER BY e.t_us DESC, e.cookie) AS wait_place,
    row_number() OVER (PARTITION BY e.ns, e.cookie ORDER BY w.remains_us, w.cookie) AS end_place
  FROM waits AS w
  JOIN ends AS e USING (ns, local_addr, local_port, peer_addr, peer_port)
  WHERE NOT e.sampled
    -- The kernel keeps TIME-WAIT for a minute; announcements may come a little late.
    AND e.t_us BETWEEN w.remains_us - 61000000 AND w.remains_us + 1000000
),
known AS (
  SELECT
    coalesce(s.ns, e.ns) AS ns, coalesce(s.host, e.host) AS host, coalesce(s.boot, e.boot) AS boot,
    coalesce(s.cookie, e.cookie) AS cookie,
    coalesce(s.family, e.family) AS family, coalesce(s.netid, e.netid) AS netid,
    coalesce(s.local_addr, e.local_addr) AS local_addr, coalesce(s.local_port, e.local_port) AS local_port,
    coalesce(s.peer_addr, e.peer_addr) AS peer_addr, coalesce(s.peer_port, e.peer_port) AS peer_port,
    CASE WHEN s.pid IS NOT NULL THEN s.pid WHEN e.pid IS NOT NULL THEN e.pid ELSE c.pid END AS pid,
    CASE WHEN s.pid IS NOT NULL THEN s.start_us WHEN e.pid IS NOT NULL THEN e.start_us ELSE c.start_us END AS start_us,
    CASE WHEN s.pid IS NOT NULL THEN s.comm WHEN e.pid IS NOT NULL THEN e.comm ELSE c.comm END AS comm,
    s.user,
    CASE WHEN s.pid IS NOT NULL THEN s.owner_by WHEN e.pid IS NOT NULL THEN e.owner_by ELSE c.owner_by END AS owner_by,
    coalesce(s.samples, 0) AS samples, s.first_sample, s.last_sample, s.last_row,
    s.cookie IS NULL AND coalesce(e.sampled, false) AS shown_before,
    coalesce(s.first_us, e.t_us) AS first_us,
    -- Of what is known by its remains alone the end is when they were first seen.
    coalesce(s.last_us, s.remains_us) AS last_us,
    e.t_us AS end_us, e.sample AS end_sample, e.recv_q AS end_recv_q,
    e.cookie IS NOT NULL AND e.peer_port IS NULL AS reset, e.reset_by,
    CASE WHEN e.reset_by IS NOT NULL THEN e.lost_bytes END AS lost_bytes,
    CASE WHEN e.reset_by = 'peer' THEN e.lost_idle_us END AS lost_idle_us,
    CASE WHEN e.reset_by = 'peer' THEN e.peer_idle_us END AS peer_idle_us,
    s.last_state, s.syn_sent_us, s.syn_recv_us, s.estab_us,
    coalesce(s.fin_wait_us, m.fin_wait_us) AS fin_wait_us, s.close_wait_us, s.closing_us, s.last_ack_us,
    coalesce(s.time_wait_us, m.time_wait_us) AS time_wait_us, m.time_wait_cookie,
    coalesce(e.bytes_sent, s.bytes_sent) AS bytes_sent,
    coalesce(e.bytes_received, s.bytes_received) AS bytes_received,
    coalesce(e.bytes_acked, s.bytes_acked) AS bytes_acked,
    coalesce(e.bytes_retrans, s.bytes_retrans) AS bytes_retrans,
    coalesce(e.segs_out, s.segs_out) AS segs_out, coalesce(e.segs_in, s.segs_in) AS segs_in,
    coalesce(e.data_segs_out, s.data_segs_out) AS data_segs_out,
    coalesce(e.data_segs_in, s.data_segs_in) AS data_segs_in,
    coalesce(e.total_retrans, s.total_retrans) AS total_retrans, coalesce(e.total_rto, s.total_rto) AS total_rto,
    coalesce(e.rtt_us, s.rtt_us) AS rtt_us,
    least(e.min_rtt_us, s.min_rtt_us) AS min_rtt_us, greatest(e.rtt_us, s.rtt_max_us) AS rtt_max_us,
    s.recv_q_peak, s.send_q_peak,
    coalesce(e.busy_time_us, s.busy_time_us) AS busy_time_us,
    coalesce(e.rwnd_limited_us, s.rwnd_limited_us) AS rwnd_limited_us,
    coalesce(e.sndbuf_limited_us, s.sndbuf_limited_us) AS sndbuf_limited_us
  FROM sampled AS s
  FULL JOIN ends AS e ON e.ns = s.ns AND e.cookie = s.cookie
  LEFT JOIN shared AS c
    ON c.ns = coalesce(s.ns, e.ns)
    AND c.local_addr = coalesce(s.local_addr, e.local_addr) AND c.local_port = coalesce(s.local_port, e.local_port)
    AND c.peer_addr = coalesce(s.peer_addr, e.peer_addr) AND c.peer_port = coalesce(s.peer_port, e.peer_port)
  LEFT JOIN matches AS m ON m.ns = e.ns AND m.cookie = e.cookie AND m.wait_place = 1 AND m.end_place = 1
  -- Where ports are taken again at once it is one of several, whichever: none is counted twice.
  WHERE NOT EXISTS (SELECT 1 FROM matches AS taken WHERE taken.ns = s.ns AND taken.time_wait_cookie = s.cookie)
),
adjacent AS MATERIALIZED (
  SELECT
    ns, kind AS netid, sample, t_us,
    lag(t_us) OVER read_life AS former_us, lead(t_us) OVER read_life AS next_us
  FROM table_reads
  WHERE whole AND kind IN ('tcp', 'mptcp', 'sctp', 'dccp')
  WINDOW read_life AS (PARTITION BY ns, kind ORDER BY sample)
),
listened AS (
  -- Of the whole recording: --where may choose no listener.
  SELECT DISTINCT ns, local_port
  FROM raw.sockets
  WHERE state = 'LISTEN' AND netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
),
readable AS (
  SELECT ns, netid, min(t_us) AS begun_us, max(sample) AS last_sample
  FROM adjacent
  GROUP BY ns, netid
),
judged AS (
  SELECT
    k.*,
    CASE
      WHEN k.syn_sent_us IS NOT NULL THEN 'client'
      WHEN k.syn_recv_us IS NOT NULL OR k.owner_by = 'listener' OR d.local_port IS NOT NULL THEN 'server'
      WHEN r.ns IS NOT NULL THEN 'client'
    END AS role,
    CASE
      WHEN k.shown_before OR b.cookie IS NOT NULL OR k.first_us <= r.begun_us THEN 'before'
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
  LEFT JOIN readable AS r USING (ns, netid)
  LEFT JOIN listened AS d USING (ns, local_port)
  LEFT JOIN (SELECT DISTINCT ns, cookie FROM baseline) AS b USING (ns, cookie)
  LEFT JOIN adjacent AS first ON first.ns = k.ns AND first.netid = k.netid AND first.sample = k.first_sample
  LEFT JOIN adjacent AS last ON last.ns = k.ns AND last.netid = k.netid AND last.sample = k.last_sample
  LEFT JOIN adjacent AS earlier
    ON earlier.ns = k.ns AND earlier.netid = k.netid AND earlier.sample = k.end_sample - 1
),
ended AS (
  SELECT
    j.*,
    CASE
      WHEN j.end_us IS NOT NULL THEN j.end_us
      WHEN j.closed IN ('seen', 'inferred') THEN j.last_us
    END AS closed_us,
    CASE
      WHEN coalesce(j.estab_us, j.fin_wait_us, j.close_wait_us, j.closing_us, j.last_ack_us, j.time_wait_us) IS NULL
        AND j.closed IS NOT NULL
        AND j.netid = 'tcp'
        AND (
          (j.syn_sent_us IS NOT NULL AND coalesce(j.bytes_acked, 0) = 0)
          -- Of a request that came to nothing no end is announced.
          OR (
            j.syn_recv_us IS NOT NULL AND j.end_us IS NULL AND coalesce(j.bytes_acked, 0) = 0 AND coalesce(j.bytes_received, 0) = 0
          )
          -- A connection that this end opened has at least its SYN acknowledged.
          OR (j.role = 'client' AND j.bytes_acked = 0 AND j.bytes_received = 0)
        )
        THEN 'failed'
    END AS attempt
  FROM judged AS j
)
SELECT
  host, boot, ns, netns_of(ns) AS netns, cookie, family, netid, local_addr, local_port, peer_addr, peer_port,
  endpoint(local_addr, local_port) AS local, endpoint(peer_addr, peer_port) AS peer,
  role, pid, start_us, comm, who(comm, pid) AS who, user, owner_by, first_us,
  coalesce(e.closed_us, e.last_us) AS last_us,
  make_timestamp(first_us) AS first_time,
  make_timestamp(coalesce(e.closed_us, e.last_us)) AS last_time,
  samples, opened, closed, closed_us,
  CASE
    WHEN attempt = 'failed' OR closed IS NULL THEN NULL
    WHEN closing_us IS NOT NULL THEN 'both'
    WHEN close_wait_us IS NOT NULL OR last_ack_us IS NOT NULL THEN 'peer'
    WHEN fin_wait_us IS NOT NULL OR time_wait_us IS NOT NULL THEN 'local'
    WHEN reset THEN 'reset'
    -- The end that closed first never reads the other's FIN.
    WHEN end_recv_q > 0 THEN 'local'
    WHEN end_recv_q = 0 THEN 'peer'
  END AS closed_first,
  reset_by, lost_bytes, lost_idle_us, peer_idle_us, attempt, last_state,
  syn_sent_us, syn_recv_us, estab_us, fin_wait_us, close_wait_us, closing_us, last_ack_us, time_wait_us, time_wait_cookie,
  CASE
    WHEN opened = 'during' AND (end_us IS NOT NULL OR last_sample IS NOT NULL)
      THEN coalesce(closed_us, e.last_us) - first_us
  END AS duration_us,
  CASE
    WHEN opened = 'before' OR closed IS NULL THEN NULL
    ELSE coalesce(end_us, next_us) - former_us
  END AS duration_max_us,
  bytes_sent, bytes_received, bytes_acked, bytes_retrans, segs_out, segs_in, data_segs_out, data_segs_in,
  total_retrans, total_rto, rtt_us, min_rtt_us, rtt_max_us, recv_q_peak, send_q_peak,
  busy_time_us, rwnd_limited_us, sndbuf_limited_us
FROM ended AS e
