-- title = "Connections in CLOSE-WAIT"
-- description = """
-- One row per socket that a sample showed so; an MPTCP connection once, as its own socket holds its
-- subflows.
-- """
-- uses = ["history", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- verdict = "not accepted, not read or not closed, by its last sample."
-- waited_us = "From the first sample that showed it so to the last."
-- at_first = "Whether it was so when the scope began."
-- at_last = "Whether it is so in the last sample that read TCP whole."
WITH bounds AS (
  SELECT ns, min(sample) AS first_sample, max(sample) AS last_sample
  FROM tcp_reads
  GROUP BY ns
)
SELECT
  w.ns, w.cookie,
  max_by(w.pid, w.sample) AS pid, max_by(w.start_us, w.sample) AS start_us, max_by(w.comm, w.sample) AS comm,
  any_value(w.local_addr) AS local_addr, any_value(w.local_port) AS local_port, any_value(w.local) AS local,
  any_value(w.peer_addr) AS peer_addr, any_value(w.peer_port) AS peer_port,
  min(w.sample_time) AS since, max(w.sample_time) AS until, min(w.t_us) AS since_us,
  max(w.t_us) - min(w.t_us) AS waited_us, count(*) AS samples,
  min(w.sample) <= b.first_sample AS at_first, max(w.sample) >= b.last_sample AS at_last,
  CASE
    -- A connection gets its inode when it is accepted; an unread FIN counts as a byte.
    WHEN max_by(w.inode, w.sample) = 0 THEN 'not accepted'
    WHEN max_by(w.recv_q, w.sample) > 0 THEN 'not read'
    WHEN max_by(w.recv_q, w.sample) = 0 THEN 'not closed'
  END AS verdict
FROM history AS w
LEFT JOIN bounds AS b USING (ns)
WHERE w.netid IN ('tcp', 'mptcp') AND w.state = 'CLOSE-WAIT' AND (w.subflow IS NULL OR NOT w.subflow)
GROUP BY w.ns, w.cookie, b.first_sample, b.last_sample
