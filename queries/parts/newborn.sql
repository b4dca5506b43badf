-- title = "Sockets that came while it was recorded"
-- description = """
-- TCP listeners and UDP sockets that the first whole reading of their table did not show: they have
-- dropped nothing before. Of the whole recording, whatever the scope.
-- """
-- uses = ["was_read"]
-- [columns]
-- ns = "Network namespace."
-- cookie = "Identity of the socket, the key together with ns."
WITH begun AS (
  SELECT ns, kind, min(sample) AS sample
  FROM (
    SELECT ns, sample, k.kind
    FROM raw.samples JOIN (VALUES ('tcp'), ('udp'), ('udplite')) AS k (kind) ON step IN (k.kind, k.kind || '6', 'all')
    GROUP BY ns, sample, k.kind
    HAVING bool_and(was_read(outcome))
  ) AS whole
  GROUP BY ns, kind
)
SELECT r.ns, r.cookie
FROM raw.sockets AS r
JOIN begun AS b ON b.ns = r.ns AND b.kind = r.netid
WHERE r.netid = 'tcp' AND r.state = 'LISTEN' OR r.netid IN ('udp', 'udplite')
GROUP BY r.ns, r.cookie, b.sample
HAVING min(r.sample) > b.sample
