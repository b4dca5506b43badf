-- title = "How many sockets there were of each kind, on average"
-- description = "One row per process, place and state."
-- needs = ["sockets"]
-- uses = ["doors", "place_of"]
-- [columns]
-- process = "Name of the process, if it is known."
-- place = "At which listener, or to which destination."
-- state = "State."
-- sockets = "Sockets in a sample, on average."
-- percent = "Their share in all sockets."
SELECT
  s.comm AS process,
  place_of(s.netid, s.state, s.local_addr, s.local_port, s.peer_addr, s.peer_port, d.ns IS NOT NULL AND s.netid = 'tcp') AS place,
  s.state, 1.0 * count(*) / any_value(n.samples) AS sockets, 100.0 * count(*) / sum(count(*)) OVER () AS percent
FROM sockets AS s
CROSS JOIN (SELECT count(DISTINCT sample) AS samples FROM sockets) AS n
LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
GROUP BY ALL
ORDER BY ALL
