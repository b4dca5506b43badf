-- title = "Connections reset with data lost, by service"
-- description = """
-- One row per service, end and way it was lost: the peer had closed, or reset, a connection on which
-- this end then sent (peer), or this end closed with data unread (local); a process to which both
-- happened has two. What is known of both ends over loopback, or on this host, stands on the row of
-- either.
-- """
-- uses = ["is_loopback", "services", "the_only"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host."
-- role = "client or server: of this end."
-- addr = "Address of the service, where it is one."
-- port = "Its port."
-- pid = "Process at this end: found, or the only one that it can be."
-- comm = "Its name."
-- lost_by = "peer or local, as above."
-- resets = "Connections on which something was lost that way."
-- closed = "All of the same process and service that were closed in this time, however."
-- lost_bytes = "What was lost on them; a FIN counts as one."
-- idle_us = "Median of how long they were idle when this end sent: of peer only."
-- peer_idle_us = "Median of how long they were idle when the peer last acknowledged, as its FIN does: of peer only."
-- since = "First of them."
-- until = "Last of them."
-- other_pid = "Process at the other end, if it is one and was recorded."
-- other_comm = "Its name."
WITH kept AS MATERIALIZED (
  SELECT
    ns, role, coalesce(service_addr, local_addr) AS addr, service_port AS port, user_pid AS pid, user_comm AS comm, closed_us,
    last_time, lost_bytes, lost_idle_us, peer_idle_us,
    -- An attempt that was refused looks like a reset of this end, and loses nothing.
    CASE WHEN lost_bytes > 0 THEN reset_by END AS lost_by
  FROM services
  WHERE netid = 'tcp' AND role IS NOT NULL AND service_port IS NOT NULL
),
ended AS (
  SELECT ns, role, addr, port, pid, comm, count(closed_us) AS closed
  FROM kept
  GROUP BY ns, role, addr, port, pid, comm
),
lost AS (
  SELECT
    k.ns, k.role, k.addr, k.port, k.pid, k.comm, k.lost_by, count(*) AS resets, any_value(e.closed) AS closed,
    CAST(sum(k.lost_bytes) AS BIGINT) AS lost_bytes,
    CAST(median(CASE WHEN k.lost_by = 'peer' THEN k.lost_idle_us END) AS BIGINT) AS idle_us,
    CAST(median(CASE WHEN k.lost_by = 'peer' THEN k.peer_idle_us END) AS BIGINT) AS peer_idle_us,
    min(k.last_time) AS since, max(k.last_time) AS until
  FROM kept AS k
  JOIN ended AS e
    ON e.ns = k.ns AND e.role = k.role AND e.port = k.port AND e.addr IS NOT DISTINCT FROM k.addr
    AND e.pid IS NOT DISTINCT FROM k.pid AND e.comm IS NOT DISTINCT FROM k.comm
  WHERE k.lost_by IS NOT NULL
  GROUP BY k.ns, k.role, k.addr, k.port, k.pid, k.comm, k.lost_by
),
others AS (
  SELECT ns, role, addr, port, the_only(pid) AS pid, the_only(comm) AS comm
  FROM kept
  GROUP BY ns, role, addr, port
),
met AS (
  -- The other end is in the same network namespace, else in the only other one that has such an end.
  SELECT
    l.ns, l.role, l.addr, l.port, first(o.ns ORDER BY o.ns <> l.ns) AS other_ns, first(o.pid ORDER BY o.ns <> l.ns) AS other_pid,
    first(o.comm ORDER BY o.ns <> l.ns) AS other_comm
  FROM (SELECT DISTINCT ns, role, addr, port FROM lost) AS l
  JOIN others AS o
    ON o.addr = l.addr AND o.port = l.port AND o.role <> l.role AND (o.ns = l.ns OR NOT is_loopback(l.addr))
  GROUP BY l.ns, l.role, l.addr, l.port
  HAVING count(*) = 1 OR bool_or(o.ns = l.ns)
)
SELECT l.*, m.other_pid, m.other_comm
FROM lost AS l LEFT JOIN met AS m USING (ns, role, addr, port)
-- What this end sent, and the other end closed without reading, is told where it was not read.
WHERE l.lost_by = 'local'
  OR NOT EXISTS (
    SELECT 1
    FROM lost AS u
    WHERE u.lost_by = 'local' AND u.addr = l.addr AND u.port = l.port AND u.role <> l.role AND u.ns = m.other_ns
  )
