-- title = "Servers whose peers have gone silent"
-- description = """
-- Connections of servers of whose peers nothing was heard for ten seconds or more, neither data nor an
-- acknowledgement, with nothing on its way: per process and port, the most first. Without keepalive
-- a server that sends nothing never learns that a peer is gone: silent that only rises, with few that
-- spoke, is that. unanswered counts those that the kernel probed in vain: they are gone; so are those
-- of gone, whose other end was recorded too. Idle clients look alike until they speak. Whose other
-- end is open on this host is left out, and so are connections of clients: a client that sends
-- learns it, see stalls.
-- """
-- needs = ["tcp"]
-- uses = ["netns_of", "silent_services"]
-- ranks = ["silent", "comm", "pid", "local", "connections", "overdue", "pause_s", "gone", "unanswered", "quiet_s"]
--
-- [columns]
-- comm = "Process that holds them."
-- pid = "Its number."
-- local = "Address and port of the service, any one of several addresses."
-- silent = "Connections silent in the last sample, without keepalive."
-- first = "Those that were so in the first sample."
-- spoke = "Those that were silent and spoke again, or were closed."
-- gone = "Connections silent in the last sample whose other end, on this host too, is closed."
-- unanswered = "Connections of which two keepalive probes or more were not answered."
-- overdue = "Connections silent in the last sample, without keepalive, for longer than pause_s, be that less than ten seconds."
-- pause_s = "Longest that any peer of the service paused and then spoke again, in seconds; between two samples no pause is told from a longer one."
-- connections = "All that the process holds of that service in the last sample."
-- quiet_s = "Longest silence of them, in seconds, by the kernel's clocks (last_data_recv_ms, last_ack_recv_ms)."
-- since = "First sample that found one silent, UTC."
-- until = "Last sample that did, UTC."
-- netns = "Inode number of the network namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "silent", type = "quantitative" }
-- y = { field = "local", sort = "-x" }
-- color = { field = "comm" }
WITH ranked AS (
  SELECT
    s.*, row_number() OVER (ORDER BY greatest(s.unanswered, s.gone) DESC, s.silent DESC, s.ns, s.local_port, s.pid NULLS LAST, s.start_us NULLS LAST) AS place
  FROM silent_services AS s CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  comm, pid, local, silent, silent_first AS first, spoke, gone, unanswered, overdue, round(pause_us / 1000000.0, 1) AS pause_s, connections, round(quiet_us / 1000000.0, 1) AS quiet_s,
  since, until, netns_of(ns) AS netns
FROM ranked
ORDER BY place
