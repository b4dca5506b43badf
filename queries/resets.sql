-- title = "Connections reset with data lost"
-- description = """
-- Per process and service: connections that were reset before all was delivered, the most first. peer:
-- the other end had closed, or reset, a connection on which this end then sent. With idle_s above
-- zero that is the race of keep-alive: the pool that reuses connections must give them up sooner than
-- the other end closes them (peer_idle_s), or look before it sends. local: this end closed with data
-- unread, which resets the connection: look for requests that it refuses without reading them. Resets
-- that lost nothing are not told apart from a close by the kernel; churn has its counts. Only the
-- kernel's announcements of ends (closes) tell what was lost.
-- """
-- needs = ["tcp", "closes"]
-- uses = ["endpoint", "netns_of", "process", "resets"]
-- ranks = ["resets", "lost_by", "comm", "service", "other", "idle_s"]
--
-- [columns]
-- lost_by = "peer or local, as above; a process to which both happened has two rows."
-- comm = "Process at this end; empty if it was not found."
-- pid = "Its number."
-- role = "Whether this end connected (client) or accepted (server)."
-- service = "Address and port that clients connect to."
-- other = "Process at the other end, if it is one and was recorded."
-- resets = "Connections on which something was lost that way."
-- closed = "All of this process and service that were closed, however."
-- reset_percent = "Share of resets in closed."
-- lost_bytes = "What the peer never acknowledged, or this end never read."
-- idle_s = "Seconds without a byte received until this end sent what was lost, median."
-- peer_idle_s = "Seconds without a byte received until the peer last acknowledged, as its FIN does, median."
-- since = "First of them, UTC."
-- until = "Last of them, UTC."
-- netns = "Inode number of the network namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "resets", type = "quantitative" }
-- y = { field = "service", sort = "-x" }
-- color = { field = "comm" }
WITH ranked AS (
  SELECT
    r.*, row_number() OVER (ORDER BY r.resets DESC, r.ns, r.addr, r.port, r.role, r.comm NULLS LAST, r.pid NULLS LAST, r.lost_by) AS place
  FROM resets AS r CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  lost_by, comm, pid, role, endpoint(addr, port) AS service, process(other_comm, other_pid) AS other, resets, closed,
  round(100.0 * resets / nullif(closed, 0), 1) AS reset_percent, lost_bytes, round(idle_us / 1000000.0, 1) AS idle_s,
  round(peer_idle_us / 1000000.0, 1) AS peer_idle_s, since, until, netns_of(ns) AS netns
FROM ranked
ORDER BY place
