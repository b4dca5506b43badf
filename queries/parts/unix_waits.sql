-- title = "Data that lies unread in a unix socket"
-- description = """
-- One row per socket and stay: samples in a row in which something lay there and the queue never got
-- shorter. Of datagrams the kernel tells only how long the first one is.
-- """
-- [columns]
-- ns = "Network namespace."
-- cookie = "Identity of the socket, the key together with ns."
-- lasted_us = "From the first sample of the stay to the last."
-- least = "Fewest bytes that lay there."
-- bytes = "Most of them."
WITH looks AS (
  SELECT
    ns, cookie, sample, sample_time, t_us, recv_q,
    CASE WHEN recv_q = 0 OR recv_q < lag(recv_q) OVER (PARTITION BY ns, cookie ORDER BY sample) THEN 1 ELSE 0 END AS moved
  FROM sockets
  WHERE family = 'unix' AND state <> 'LISTEN'
    AND (ns, cookie) IN (SELECT (ns, cookie) FROM sockets WHERE family = 'unix' AND state <> 'LISTEN' AND recv_q > 0)
),
stays AS (
  SELECT
    *, sum(moved) OVER (PARTITION BY ns, cookie ORDER BY sample ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS stay
  FROM looks
)
SELECT
  ns, cookie, min(sample) AS first_sample, max(sample) AS last_sample, min(sample_time) AS since, max(sample_time) AS until,
  max(t_us) - min(t_us) AS lasted_us, min(recv_q) AS least, max(recv_q) AS bytes
FROM stays
WHERE recv_q > 0
GROUP BY ns, cookie, stay
