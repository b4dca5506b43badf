-- title = "By which next hop connections go that wait for an answer"
-- description = """
-- One row per peer and process whose SYN or data is sent again: the route of the main table that held
-- when it was last seen to wait; none if the network of that namespace was recorded and there is none.
-- """
-- uses = ["held_routes", "in_network", "is_loopback", "unmapped"]
-- [columns]
-- peer_addr = "Peer."
-- connections = "Connections to it that wait."
-- since_us = "First sample that showed one waiting."
-- until_us = "Last one."
-- hop = "Next hop: the gateway, or the peer itself."
-- kind = "Kind of the route; nothing if there is none."
-- only_main = "Whether there are no other tables, which may have another route."
WITH waiting AS (
  SELECT
    ns, unmapped(peer_addr) AS peer_addr, pid, max(comm) AS comm, count(DISTINCT cookie) AS connections, min(t_us) AS since_us,
    max(t_us) AS until_us
  FROM sockets
  WHERE netid = 'tcp' AND NOT is_loopback(peer_addr) AND (state = 'SYN-SENT' OR retransmits > 0)
  GROUP BY ns, unmapped(peer_addr), pid
),
known AS (
  SELECT ns, any_value(i.first_us) AS first_us, NOT bool_or(coalesce(r.routing_table NOT IN (0, 254, 255), false)) AS only_main
  FROM (SELECT ns, epoch_us(min(sample_time)) AS first_us FROM raw.interfaces GROUP BY ns) AS i LEFT JOIN held_routes AS r USING (ns)
  GROUP BY ns
)
SELECT
  w.ns, w.peer_addr, w.pid, w.comm, w.connections, w.since_us, w.until_us, k.only_main, r.kind, r.dev, r.ifindex, r.destination,
  r.prefix_len, r.gateway, CASE WHEN r.kind IS NOT NULL THEN coalesce(r.gateway, w.peer_addr) END AS hop
FROM waiting AS w
JOIN known AS k ON k.ns = w.ns AND k.first_us <= w.until_us
LEFT JOIN held_routes AS r
  ON r.ns = w.ns AND r.routing_table = 254 AND r.since_us <= w.until_us AND coalesce(r.until_us, w.until_us + 1) > w.until_us
  AND in_network(w.peer_addr, r.destination, r.prefix_len)
-- What goes to an own address needs no route.
WHERE NOT EXISTS (SELECT 1 FROM addresses AS a WHERE a.ns = w.ns AND a.address = w.peer_addr)
QUALIFY row_number() OVER (PARTITION BY w.ns, w.peer_addr, w.pid ORDER BY r.prefix_len DESC NULLS LAST, r.priority NULLS FIRST, r.gateway) = 1
