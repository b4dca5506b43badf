-- title = "Services with connections whose peer may be gone"
-- description = "One row per process and listening port of which a peer was silent."
-- uses = ["doors", "silences", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- local = "Address and port of the service at which they are, any one of several addresses."
-- silent = "Connections silent in the last sample, without keepalive."
-- silent_first = "Those that were so when the scope began."
-- spoke = "Those that were silent, and spoke again or were closed."
-- gone = "Connections silent in the last sample whose other end, on this host too, is closed."
-- unanswered = "Connections of which keepalive probes were not answered."
-- connections = "All connections of the service that the process holds in the last sample."
-- quiet_us = "Longest silence of those in the last sample."
-- waits_us = "Silence of each of them."
WITH held AS (
  SELECT s.ns, s.pid, s.start_us, s.local_port, count(*) AS connections
  FROM sockets AS s JOIN (SELECT ns, max(sample) AS sample FROM tcp_reads GROUP BY ns) AS n USING (ns, sample)
  WHERE s.netid = 'tcp' AND s.state = 'ESTAB' AND s.inode > 0
  GROUP BY s.ns, s.pid, s.start_us, s.local_port
)
SELECT
  q.ns, q.pid, q.start_us, max(q.comm) AS comm, q.local_port, min(q.local) AS local,
  count(*) FILTER (WHERE q.at_last AND NOT q.is_watched) AS silent,
  count(*) FILTER (WHERE q.at_first AND NOT q.is_watched) AS silent_first,
  count(*) FILTER (WHERE NOT q.at_last AND NOT q.is_watched) AS spoke,
  count(*) FILTER (WHERE q.at_last AND q.is_gone) AS gone, count(*) FILTER (WHERE q.probes >= 2) AS unanswered, max(q.probes) AS probes, coalesce(any_value(h.connections), 0) AS connections,
  max(q.quiet_us) FILTER (WHERE q.at_last OR q.probes >= 2) AS quiet_us,
  list(q.quiet_us) FILTER (WHERE q.at_last AND NOT q.is_watched) AS waits_us,
  min(q.since) AS since, max(q.until) AS until
FROM silences AS q
SEMI JOIN doors AS d ON d.ns = q.ns AND d.local_port = q.local_port
LEFT JOIN held AS h
  ON h.ns = q.ns AND h.local_port = q.local_port AND h.pid IS NOT DISTINCT FROM q.pid AND h.start_us IS NOT DISTINCT FROM q.start_us
GROUP BY q.ns, q.pid, q.start_us, q.local_port
