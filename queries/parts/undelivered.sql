-- title = "Standstills of what was sent and is sent again in vain"
-- description = """
-- One row per connection and run of samples in which something was not acknowledged though the kernel
-- had sent it again. A full segment that waits while small ones come through, and no full one ever
-- has, is a black hole of the path MTU.
-- """
-- [columns]
-- ns = "Network namespace."
-- cookie = "Identity of the socket, the key together with ns."
-- bytes_acked = "What was acknowledged before, which tells one standstill from another."
-- lasted_us = "From its first sample to its last."
-- waiting = "Bytes in the send queue in the last sample."
-- tries = "Most retransmissions in vain in a row."
-- never_pass = "Size of full segments that never pass while small ones do; nothing if that is not so."
WITH stalls AS (
  SELECT
    ns, cookie, bytes_acked, max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    any_value(local_addr) AS local_addr, any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port, any_value(peer) AS peer,
    min(sample) AS first_sample, max(sample) AS last_sample, min(sample_time) AS since, max(sample_time) AS until,
    max(t_us) - min(t_us) AS lasted_us, max_by(send_q, sample) AS waiting, max(greatest(retransmits, backoff)) AS tries,
    max(snd_mss) AS mss, max(sacked) AS sacked, max(1.0 * (bytes_acked - 1) / nullif(delivered - sacked - 1, 0)) AS acked_size
  FROM sockets
  WHERE send_q > 0
    AND netid = 'tcp'
    AND bytes_acked IS NOT NULL
    AND (state IN ('ESTAB', 'CLOSE-WAIT') OR (state IN ('FIN-WAIT-1', 'CLOSING', 'LAST-ACK') AND send_q > 1))
    AND (backoff > 0 OR retransmits > 0)
    AND coalesce(timer, 'on') <> 'persist'
  GROUP BY ns, cookie, bytes_acked
),
passing AS (
  -- What others to the same address get through meanwhile, and in segments of what size.
  SELECT ns, peer_addr, max(acked_size) AS acked_size
  FROM (
    SELECT
      s.ns, s.peer_addr, s.cookie,
      1.0 * (max(s.bytes_acked) - min(s.bytes_acked)) / nullif(max(s.delivered) - min(s.delivered), 0) AS acked_size
    FROM sockets AS s
    JOIN (
      SELECT ns, peer_addr, min(first_sample) AS first_sample, max(last_sample) AS last_sample
      FROM stalls
      GROUP BY ns, peer_addr
    ) AS p ON p.ns = s.ns AND p.peer_addr = s.peer_addr AND s.sample BETWEEN p.first_sample AND p.last_sample
    WHERE s.netid = 'tcp' AND s.state = 'ESTAB'
    GROUP BY s.ns, s.peer_addr, s.cookie
    HAVING max(s.bytes_acked) > min(s.bytes_acked)
  ) AS moving
  GROUP BY ns, peer_addr
)
SELECT
  l.ns, l.cookie, l.bytes_acked, l.pid, l.start_us, l.comm, l.local_addr, l.peer_addr, l.peer_port, l.peer, l.first_sample, l.last_sample,
  l.since, l.until, l.lasted_us, l.waiting, l.tries,
  CASE
    -- A full segment waits, a small one has come through (the last one of those, or one of another
    -- connection), and no full one ever has.
    WHEN l.waiting >= l.mss AND coalesce(l.acked_size, 0) < 0.8 * l.mss AND coalesce(p.acked_size, 0) < 0.8 * l.mss
      AND (l.sacked = 1 OR p.acked_size > 0)
      THEN l.mss
  END AS never_pass
FROM stalls AS l LEFT JOIN passing AS p USING (ns, peer_addr)
