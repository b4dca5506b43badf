-- title = "Addresses here whose accept queue was full"
-- description = """
-- What goes to a full accept queue of this host is dropped there: accept_queue tells of it, and its
-- clients see silence. Whatever --where chose. Ask it by goes_to_door.
-- """
-- uses = ["is_loopback", "unmapped"]
-- [columns]
-- ns = "Network namespace."
-- addr = "Address that sockets of that port have here."
-- port = "Port."
-- client = "Address of a client, who may be in another network namespace, * if none was seen; nothing if several namespaces have that address and port, or it is loopback."
WITH overflowing AS (
  SELECT r.ns, any_value(r.local_port) AS local_port
  FROM raw.sockets AS r
  CROSS JOIN params AS p
  WHERE r.state = 'LISTEN'
    AND r.netid = 'tcp'
    AND (p.from_us IS NULL OR r.sample_time >= make_timestamp(p.from_us))
    AND (p.to_us IS NULL OR r.sample_time < make_timestamp(p.to_us))
  GROUP BY r.ns, r.cookie
  HAVING bool_or(r.recv_q > r.send_q) OR max(r.drops) > min(r.drops)
  -- Never so many; but the planner may know that they are few.
  ORDER BY r.ns, r.cookie
  LIMIT 1000
),
ends AS (
  SELECT
    s.ns, unmapped(s.local_addr) AS addr, s.local_port AS port,
    CASE WHEN s.state <> 'LISTEN' THEN unmapped(s.peer_addr) END AS client
  FROM raw.sockets AS s SEMI JOIN overflowing AS o USING (local_port)
  WHERE s.netid = 'tcp'
  GROUP BY ALL
),
homes AS (
  SELECT addr, port, count(DISTINCT ns) AS homes, count(client) AS clients FROM ends GROUP BY addr, port
)
SELECT
  e.ns, e.addr, e.port,
  CASE WHEN h.homes = 1 AND NOT is_loopback(e.addr) THEN CASE WHEN h.clients = 0 THEN '*' ELSE e.client END END AS client
FROM ends AS e JOIN homes AS h USING (addr, port) SEMI JOIN overflowing AS o ON o.ns = e.ns AND o.local_port = e.port
GROUP BY ALL
