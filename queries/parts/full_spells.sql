-- title = "Spells in which a queue of a TCP connection was full"
-- description = """
-- One row per socket, queue and run of samples of its namespace. A receive queue is full when the
-- process does not read and the window is shut, or before Linux 6.2, where the kernel does not tell
-- that, when four fifths of its buffer are taken: the kernel shuts the window when about a sixteenth
-- is left, and what lies in the queue shrinks a little as it is read. A send queue is full when data of
-- it, not the FIN alone, waits as the peer has shut its window; the kernel runs the same timer (persist)
-- where this host itself drops what is sent.
-- """
-- [columns]
-- ns = "Network namespace."
-- queue = "Recv-Q or Send-Q."
-- samples = "Samples of the spell."
-- life_samples = "Samples that show the socket."
-- moved = "Bytes that were read, or acknowledged, meanwhile."
-- peak = "Most bytes in the queue."
WITH filled AS (
  SELECT
    'Recv-Q' AS queue, ns, cookie, sample, sample_time, t_us, local_addr, local_port, peer_addr, peer_port, peer, pid, start_us,
    comm, recv_q AS bytes, bytes_received - recv_q AS moved
  FROM sockets
  WHERE recv_q > 0
    AND netid = 'tcp'
    AND state IN ('ESTAB', 'FIN-WAIT-1', 'FIN-WAIT-2', 'CLOSE-WAIT')
    AND coalesce(inode, 1) <> 0
    AND (
      (rcv_wnd < rcv_mss AND 2 * coalesce(rmem_alloc, rcvbuf) >= coalesce(rcvbuf, 0))
      OR (rcv_wnd IS NULL AND 5 * rmem_alloc >= 4 * rcvbuf)
    )
  UNION ALL
  SELECT
    'Send-Q', ns, cookie, sample, sample_time, t_us, local_addr, local_port, peer_addr, peer_port, peer, pid, start_us, comm,
    send_q, bytes_acked
  FROM sockets
  WHERE send_q > 0
    AND netid = 'tcp'
    AND (state IN ('ESTAB', 'CLOSE-WAIT') OR (state IN ('FIN-WAIT-1', 'CLOSING', 'LAST-ACK') AND send_q > 1))
    AND ((timer = 'persist' AND coalesce(snd_wnd < snd_mss, true)) OR (snd_wnd = 0 AND coalesce(retransmits, 0) = 0))
),
places AS (
  SELECT ns, sample, row_number() OVER (PARTITION BY ns ORDER BY sample) AS place
  FROM (SELECT DISTINCT ns, sample FROM sockets WHERE ns IN (SELECT ns FROM filled)) AS seen
),
islands AS (
  SELECT f.*, p.place - row_number() OVER (PARTITION BY f.queue, f.ns, f.cookie ORDER BY f.sample) AS island
  FROM filled AS f JOIN places AS p USING (ns, sample)
)
SELECT
  queue, ns, cookie, max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
  any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
  any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port, any_value(peer) AS peer,
  min(sample) AS first_sample, max(sample) AS last_sample, min(sample_time) AS since, max(sample_time) AS until,
  max(t_us) - min(t_us) AS lasted_us, count(*) AS samples, any_value(l.samples) AS life_samples,
  max(bytes) AS peak, max(moved) - min(moved) AS moved
FROM islands
JOIN (
  SELECT s.ns, s.cookie, count(*) AS samples
  FROM sockets AS s SEMI JOIN (SELECT DISTINCT ns, cookie FROM filled) AS f USING (ns, cookie)
  GROUP BY s.ns, s.cookie
) AS l USING (ns, cookie)
GROUP BY queue, ns, cookie, island
