-- title = "Which sockets --where did not choose"
-- description = """
-- Rows of TCP listeners and UDP sockets in the scope that the condition left out: what they dropped is
-- not to be called unseen. Ask it WHERE kind = …
-- """
-- [columns]
-- kind = "tcp for listeners, udp for UDP and UDP-Lite."
-- ns = "Network namespace."
SELECT r.kind, r.ns, r.cookie, r.sample
FROM (
  SELECT 'tcp' AS kind, ns, cookie, sample FROM raw.sockets WHERE netid = 'tcp' AND state = 'LISTEN'
  UNION ALL
  SELECT 'udp' AS kind, ns, cookie, sample FROM raw.sockets WHERE netid IN ('udp', 'udplite')
) AS r
SEMI JOIN (SELECT DISTINCT ns, sample FROM samples) AS i USING (ns, sample)
ANTI JOIN (
  SELECT 'tcp' AS kind, ns, cookie, sample FROM sockets WHERE netid = 'tcp' AND state = 'LISTEN'
  UNION ALL
  SELECT 'udp' AS kind, ns, cookie, sample FROM sockets WHERE netid IN ('udp', 'udplite')
) AS s USING (kind, ns, cookie, sample)
