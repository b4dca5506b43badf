-- title = "Connections that one end has closed and the other has not"
-- description = """
-- One row per socket that a sample showed in CLOSE-WAIT, where the peer has closed, or held by a
-- process in FIN-WAIT-2, where this end has. An MPTCP connection once, as its own socket holds its
-- subflows. The FIN, or the answer to it, was the last thing acknowledged or before that: the
-- kernel's own clock (last_ack_recv_ms) tells how long it is so at least, from before the recording
-- too.
-- """
-- uses = ["history", "last_reads", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- state = "CLOSE-WAIT or FIN-WAIT-2."
-- verdict = "not accepted, not read or not closed, by its last sample."
-- since_us = "When it is known to have been so first."
-- waited_us = "From then to the last sample that showed it so."
-- idle_us = "Time without a byte received, in that sample."
-- at_first = "Whether it was so when the scope began."
-- at_last = "Whether it is so in the last sample that read TCP whole, or was when its process ended."
WITH bounds AS (
  SELECT ns, min(sample) AS first_sample, max(sample) AS last_sample
  FROM tcp_reads
  GROUP BY ns
),
halves AS (
  SELECT
    w.ns, w.cookie, w.state,
    max_by(w.pid, w.sample) AS pid, max_by(w.start_us, w.sample) AS start_us, max_by(w.comm, w.sample) AS comm,
    any_value(w.local_addr) AS local_addr, any_value(w.local_port) AS local_port, any_value(w.local) AS local,
    any_value(w.peer_addr) AS peer_addr, any_value(w.peer_port) AS peer_port,
    min(w.sample_time) AS since, max(w.sample_time) AS until,
    min(w.t_us - 1000 * coalesce(w.last_ack_recv_ms, 0)) AS since_us,
    max(w.t_us) - min(w.t_us - 1000 * coalesce(w.last_ack_recv_ms, 0)) AS waited_us,
    1000 * max_by(w.last_data_recv_ms, w.sample) AS idle_us, count(*) AS samples,
    min(w.sample) <= b.first_sample AS at_first, max(w.sample) AS last_sample, b.last_sample AS ns_last_sample,
    CASE
      -- A connection gets its inode when it is accepted; an unread FIN counts as a byte.
      WHEN max_by(w.inode, w.sample) = 0 THEN 'not accepted'
      WHEN max_by(w.recv_q, w.sample) > 0 THEN 'not read'
      WHEN max_by(w.recv_q, w.sample) = 0 THEN 'not closed'
    END AS verdict
  FROM history AS w
  LEFT JOIN bounds AS b USING (ns)
  WHERE w.netid IN ('tcp', 'mptcp')
    -- Said so, it is asked of each row as the file is read; a plain IN is not.
    AND coalesce(w.state, '') IN ('CLOSE-WAIT', 'FIN-WAIT-2')
    AND (w.state = 'CLOSE-WAIT' OR w.inode > 0)
    AND (w.subflow IS NULL OR NOT w.subflow)
  GROUP BY w.ns, w.cookie, w.state, b.first_sample, b.last_sample
)
SELECT
  h.* EXCLUDE (last_sample, ns_last_sample), h.last_sample >= coalesce(l.sample, h.ns_last_sample) AS at_last
FROM halves AS h
LEFT JOIN last_reads AS l ON l.ns = h.ns AND l.pid = h.pid AND l.start_us = h.start_us
