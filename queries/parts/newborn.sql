-- title = "Sockets that came while it was recorded"
-- description = """
-- TCP listeners and UDP sockets that the first whole reading of their table did not show: they have
-- dropped nothing before. Of the whole recording, whatever the scope. Ask it WHERE kind = …
-- """
-- uses = ["was_read"]
-- [columns]
-- kind = "tcp for listeners, udp for UDP and UDP-Lite."
-- ns = "Network namespace."
-- cookie = "Identity of the socket, the key together with ns."
WITH begun AS (
  SELECT ns, kind, min(sample) AS sample
  FROM (
    SELECT ns, sample, k.kind
    FROM raw.samples JOIN (VALUES ('tcp'), ('udp'), ('udplite')) AS k (kind) ON step IN (k.kind, k.kind || '6', 'all')
    GROUP BY ns, sample, k.kind
    HAVING bool_and(was_read(outcome))
  ) AS read_whole
  GROUP BY ns, kind
)
SELECT r.kind, r.ns, r.cookie
FROM (
  SELECT 'tcp' AS kind, ns, cookie, netid, sample FROM raw.sockets WHERE netid = 'tcp' AND state = 'LISTEN'
  UNION ALL
  SELECT 'udp' AS kind, ns, cookie, netid, sample FROM raw.sockets WHERE netid IN ('udp', 'udplite')
) AS r
JOIN begun AS b ON b.ns = r.ns AND b.kind = r.netid
GROUP BY r.kind, r.ns, r.cookie, b.sample
HAVING min(r.sample) > b.sample
