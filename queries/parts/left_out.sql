-- title = "Which sockets --where did not choose"
-- description = """
-- Listeners of TCP and UDP sockets of the scope that the condition left out: what they dropped is not
-- to be called unseen.
-- """
-- [columns]
-- netid = "Kind of socket: tcp for listeners, udp or udplite."
-- sockets = "Rows of them."
SELECT r.netid, count(*) AS sockets
FROM raw.sockets AS r
JOIN (SELECT DISTINCT ns, sample FROM samples) AS i USING (ns, sample)
ANTI JOIN (
  SELECT ns, cookie, sample FROM sockets
  WHERE netid = 'tcp' AND state = 'LISTEN' OR netid IN ('udp', 'udplite')
) AS s ON s.ns = r.ns AND s.cookie = r.cookie AND s.sample = r.sample
WHERE r.netid = 'tcp' AND r.state = 'LISTEN' OR r.netid IN ('udp', 'udplite')
GROUP BY r.netid
