-- title = "Addresses here whose accept queue was full"
-- description = """
-- What goes to a full accept queue of this host is dropped there: accept_queue tells of it, and its
-- clients see silence. Whatever --where chose.
-- """
-- uses = ["unmapped"]
-- [columns]
-- ns = "Network namespace."
-- addr = "Address that sockets of that port have here."
-- port = "Port."
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
)
SELECT DISTINCT s.ns, unmapped(s.local_addr) AS addr, s.local_port AS port
FROM raw.sockets AS s JOIN overflowing AS o USING (ns, local_port)
WHERE s.netid = 'tcp'
