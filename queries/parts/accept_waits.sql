-- title = "Listeners whose accept queue stood still"
-- description = """
-- One row per listening socket of TCP or unix in whose queue a sample found anyone waiting. Connections
-- are accepted in the order in which they came: as long as the first one in the queue stays the same,
-- none is. A connection that nobody has accepted has sent nothing since it came, so the kernel's clock
-- (last_data_sent_ms) says how long it waits, from before the recording too. Of several listeners on one
-- port (SO_REUSEPORT) it is in none whose queue was empty since. Of unix sockets only the length of
-- the queue is known: it stands while it never falls.
-- """
-- uses = ["unmapped"]
-- [columns]
-- ns = "Network namespace."
-- cookie = "Identity of the listener, the key together with ns."
-- wait_us = "Longest that the first in the queue had waited in a sample; of a unix socket as stood_us."
-- stood_us = "Longest run of samples between which nothing was accepted."
-- waiting = "Most that waited in a sample of that run."
-- gave_up = "Most of those waiting, in a sample, that their client had closed again; nothing for unix."
-- wait_since = "When the first one began to wait, in that longest wait."
-- wait_until = "Last sample that showed it."
WITH listening AS (
  SELECT
    ns, cookie, netid, sample, sample_time, t_us, unmapped(local_addr) AS addr, local_port, recv_q,
    max(CASE WHEN recv_q = 0 THEN t_us END) OVER (PARTITION BY ns, cookie ORDER BY sample ROWS UNBOUNDED PRECEDING) AS empty_us,
    count(*) OVER (PARTITION BY ns, sample, netid, local_port) > 1 AS are_several
  FROM sockets
  WHERE state = 'LISTEN' AND netid IN ('tcp', 'u_str', 'u_seq')
),
heads AS (
  SELECT
    d.ns, d.cookie, d.sample, max(c.last_data_sent_ms) AS wait_ms,
    max_by(c.cookie, c.last_data_sent_ms) AS head, count(*) FILTER (WHERE c.state = 'CLOSE-WAIT') AS gave_up
  FROM listening AS d
  JOIN (
    SELECT ns, sample, local_port, unmapped(local_addr) AS addr, cookie, state, last_data_sent_ms
    FROM sockets
    WHERE netid = 'tcp' AND inode = 0 AND state IN ('ESTAB', 'CLOSE-WAIT') AND last_data_sent_ms IS NOT NULL
  ) AS c ON c.ns = d.ns AND c.sample = d.sample AND c.local_port = d.local_port
  WHERE d.netid = 'tcp' AND d.recv_q > 0
    -- A dump takes a while, so that its clocks are a little later than its sample.
    AND (NOT d.are_several OR d.t_us - 1000 * c.last_data_sent_ms >= coalesce(d.empty_us, 0) - 100000)
    AND (d.addr = c.addr OR d.addr IN ('0.0.0.0', '::', '*'))
  GROUP BY d.ns, d.cookie, d.sample
),
steps AS (
  SELECT
    d.*, h.wait_ms, h.gave_up,
    CASE
      WHEN lag(d.recv_q) OVER life BETWEEN 1 AND d.recv_q AND (d.netid <> 'tcp' OR lag(h.head) OVER life = h.head) THEN 0
      ELSE 1
    END AS begins
  FROM listening AS d LEFT JOIN heads AS h USING (ns, cookie, sample)
  WINDOW life AS (PARTITION BY d.ns, d.cookie ORDER BY d.sample)
),
runs AS (
  SELECT
    ns, cookie, netid, max(t_us) - min(t_us) AS stood_us, max(recv_q) AS waiting, max(gave_up) AS gave_up,
    CASE WHEN netid = 'tcp' THEN max(1000 * wait_ms) ELSE max(t_us) - min(t_us) END AS wait_us,
    CASE WHEN netid = 'tcp' THEN max_by(t_us, wait_ms) ELSE max(t_us) END AS ended_us
  FROM (
    SELECT *, sum(begins) OVER (PARTITION BY ns, cookie ORDER BY sample ROWS UNBOUNDED PRECEDING) AS run
    FROM steps
  ) AS numbered
  WHERE recv_q > 0
  GROUP BY ns, cookie, netid, run
)
SELECT
  ns, cookie, max(wait_us) AS wait_us, max(stood_us) AS stood_us, max_by(waiting, stood_us) AS waiting, max(gave_up) AS gave_up,
  make_timestamp(max_by(ended_us - wait_us, wait_us)) AS wait_since, make_timestamp(max_by(ended_us, wait_us)) AS wait_until
FROM runs
GROUP BY ns, cookie
