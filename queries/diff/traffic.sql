-- title = "What moved in a second, by process and place"
-- description = "One row per process, place and measure, of TCP. What a connection moved before its first sample is not counted."
-- needs = ["tcp"]
-- uses = ["doors", "place_of"]
-- [columns]
-- process = "Name of the process, if it is known."
-- place = "At which listener, or to which destination."
-- measure = "closed, sent bytes, received bytes or retransmitted segments, each per s."
-- per_s = "How much in a second."
WITH span AS (
  SELECT nullif((max(t_us) - min(t_us)) / 1000000.0, 0) AS seconds
  FROM sockets
),
moved AS (
  SELECT
    ns, cookie, max_by(comm, sample) AS process, any_value(state) AS state, any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port, any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port,
    max(bytes_sent) - min(bytes_sent) AS sent, max(bytes_received) - min(bytes_received) AS received,
    max(total_retrans) - min(total_retrans) AS again, 0 AS closed
  FROM sockets
  WHERE netid = 'tcp' AND state <> 'LISTEN'
  GROUP BY ns, cookie
  UNION ALL
  SELECT ns, cookie, comm, NULL, local_addr, local_port, peer_addr, peer_port, 0, 0, 0, 1
  FROM closes
  WHERE netid = 'tcp' AND connection
),
placed AS (
  SELECT
    m.process, place_of('tcp', m.state, m.local_addr, m.local_port, m.peer_addr, m.peer_port, d.ns IS NOT NULL) AS place,
    sum(m.closed) / any_value(span.seconds) AS closed, sum(m.sent) / any_value(span.seconds) AS sent,
    sum(m.received) / any_value(span.seconds) AS received, sum(m.again) / any_value(span.seconds) AS again
  FROM moved AS m CROSS JOIN span LEFT JOIN doors AS d ON d.ns = m.ns AND d.local_port = m.local_port
  GROUP BY ALL
)
SELECT process, place, u.measure, CAST(u.per_s AS DOUBLE) AS per_s
FROM placed AS p
CROSS JOIN LATERAL (
  VALUES
    ('closed', p.closed), ('sent bytes', p.sent), ('received bytes', p.received), ('retransmitted segments', p.again)
) AS u(measure, per_s)
WHERE u.per_s > 0
ORDER BY ALL
