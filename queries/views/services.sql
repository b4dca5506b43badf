-- title = "Connections, with who uses the service where that was not found"
-- description = """
-- One row per connection of the view connections, IPv4 addresses as such, and its service: what
-- clients connect to. A server is known by its port, on whichever of its addresses it was met. What
-- has no process goes to the only one that is known to use the same service, and if none is, to the
-- only one of the user that does.
-- """
-- uses = ["connections", "service_users", "unmapped"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host, the key together with cookie."
-- cookie = "Identity of the socket."
-- netid = "Kind of socket."
-- role = "client or server; nothing if the sockets were never seen."
-- local_addr = "Local address."
-- local_port = "Local port."
-- peer_addr = "Peer address."
-- peer_port = "Peer port."
-- service_addr = "Address that clients connect to; nothing where this end is the server."
-- service_port = "Port that clients connect to."
-- least_addr = "Least local address of the service's sockets."
-- most_addr = "Greatest of them; another one, if there are several."
-- pid = "Process at this end, if it was found."
-- user_pid = "Process at this end: found, or the only one that it can be."
-- user_comm = "Its name."
-- opened = "before or during, as in connections."
-- closed = "seen, inferred, before or nothing."
-- closed_us = "When."
-- closed_first = "Which end closed first."
-- reset_by = "Which end reset it, as in connections."
-- lost_bytes = "What was lost by that."
-- lost_idle_us = "How long it had been idle when this end sent that."
-- peer_idle_us = "How long it had been idle when the peer last acknowledged."
-- attempt = "failed if it never got open."
-- first_us = "First moment it is known of."
-- last_us = "Last moment it is known of."
-- first_time = "First moment as a time."
-- last_time = "Last moment as a time."
-- duration_us = "At least so long it lived."
-- duration_max_us = "At most so long."
-- bytes_sent = "Sent over its whole life."
-- bytes_received = "Received over its whole life."
WITH ends AS (
  SELECT
    ns, cookie, netid, role, unmapped(local_addr) AS local_addr, local_port, unmapped(peer_addr) AS peer_addr, peer_port,
    CASE WHEN role = 'client' THEN unmapped(peer_addr) END AS service_addr,
    CASE WHEN role = 'client' THEN peer_port ELSE local_port END AS service_port,
    pid, comm, opened, closed, closed_us, closed_first, reset_by, lost_bytes, lost_idle_us, peer_idle_us, attempt,
    first_us, last_us, first_time, last_time, duration_us, duration_max_us, bytes_sent, bytes_received
  FROM connections
),
used AS (
  SELECT
    *,
    min(pid) OVER service AS least_pid, max(pid) OVER service AS most_pid,
    min(comm) OVER service AS least_comm, max(comm) OVER service AS most_comm,
    min(local_addr) OVER service AS least_addr, max(local_addr) OVER service AS most_addr
  FROM ends
  WINDOW service AS (PARTITION BY ns, role, service_addr, service_port)
)
SELECT
  e.ns, e.cookie, e.netid, e.role, e.local_addr, e.local_port, e.peer_addr, e.peer_port, e.service_addr, e.service_port,
  e.least_addr, e.most_addr, e.pid,
  CASE
    WHEN e.pid IS NOT NULL THEN e.pid
    WHEN e.service_port IS NULL THEN NULL
    WHEN e.least_pid IS NULL THEN u.pid
    WHEN e.least_pid = e.most_pid THEN e.least_pid
  END AS user_pid,
  CASE
    WHEN e.pid IS NOT NULL THEN e.comm
    WHEN e.service_port IS NULL THEN NULL
    WHEN e.least_comm IS NULL THEN u.comm
    WHEN e.least_comm = e.most_comm THEN e.least_comm
  END AS user_comm,
  e.opened, e.closed, e.closed_us, e.closed_first, e.reset_by, e.lost_bytes, e.lost_idle_us,
  e.peer_idle_us, e.attempt, e.first_us, e.last_us, e.first_time, e.last_time,
  e.duration_us, e.duration_max_us, e.bytes_sent, e.bytes_received
FROM used AS e
LEFT JOIN service_users AS u ON u.ns = e.ns AND u.peer_addr = e.service_addr AND u.peer_port = e.service_port
