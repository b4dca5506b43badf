-- title = "Half-closed connections: FIN-WAIT-2 with an owner"
-- description = """
-- A process has closed its half of a connection and keeps it for the other half: FIN-WAIT-2 with an
-- owner. The kernel never ends that state while a process holds the socket. Processes with most of
-- them come first. Where now is far above before, and quiet_s is long, the peers never end and the
-- process never gives up: it needs a time limit of its own. A connection on which data still comes,
-- as for a request whose end was said first, has a short quiet_s. close_wait is the same of the other
-- end; what no process holds any more, orphans shows.
-- """
-- needs = ["tcp"]
-- uses = ["half_closed_holders", "netns_of"]
-- ranks = ["sockets", "comm", "pid", "place", "oldest_s", "quiet_s"]
--
-- [columns]
-- comm = "Name of the process that holds them."
-- pid = "That process; empty if it is not known."
-- side = "on: they share the own port, as those of a server; to: they share the peer."
-- place = "The address and port that most of them share."
-- sockets = "Connections in FIN-WAIT-2 in the last sample."
-- first = "Those in the first sample."
-- growth = "sockets less first."
-- oldest_s = "Longest that one of them had been so, in seconds: at least so long, by the kernel's clock (last_ack_recv_ms) and by what samples show."
-- quiet_s = "Longest that one of them has received nothing, in seconds (last_data_recv_ms)."
-- since = "First sample that showed one of them so, UTC."
-- netns = "Inode number of the network namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "sockets", type = "quantitative" }
-- y = { field = "comm", sort = "-x" }
WITH ranked AS (
  SELECT h.*, row_number() OVER (ORDER BY h.now DESC, h.ns, h.holder, h.started) AS place_of
  FROM half_closed_holders AS h CROSS JOIN params
  WHERE h.state = 'FIN-WAIT-2'
  QUALIFY params.top = 0 OR place_of <= params.top
)
SELECT
  comm, pid, side, place, now AS sockets, before AS first, now - before AS growth, round(oldest_us / 1000000.0, 1) AS oldest_s,
  round(idle_us / 1000000.0, 1) AS quiet_s, since, netns_of(ns) AS netns
FROM ranked
ORDER BY place_of
