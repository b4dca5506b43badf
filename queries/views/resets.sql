-- title = "Connections that were reset with something lost, by service"
-- description = """
-- One row per service, end and way it was lost: the peer had closed, or reset, a connection on which
-- this end then sent (peer), or this end closed with data unread (local). What is known of both ends
-- over loopback, or on this host, stands on the row of either.
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
-- lost_by = "peer or local, as above: of most of them."
-- resets = "Connections on which something was lost."
-- closed = "All of the same process and service that were closed in this time."
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
lost AS (
  SELECT
    ns, role, addr, port, pid, comm, mode(lost_by ORDER BY lost_by) AS lost_by, count(lost_by) AS resets, count(closed_us) AS closed,
    CAST(sum(CASE WHEN lost_by IS NOT NULL THEN lost_bytes END) AS BIGINT) AS lost_bytes,
    CAST(median(CASE WHEN lost_by = 'peer' THEN lost_idle_us END) AS BIGINT) AS idle_us,
    CAST(median(CASE WHEN lost_by = 'peer' THEN peer_idle_us END) AS BIGINT) AS peer_idle_us,
    min(last_time) FILTER (WHERE lost_by IS NOT NULL) AS since, max(last_time) FILTER (WHERE lost_by IS NOT NULL) AS until
  FROM kept
  GROUP BY ns, role, addr, port, pid, comm
  HAVING count(lost_by) > 0
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
