-- title = "Idle connections, and pools that do not reuse theirs"
-- description = """
-- Who keeps connections that nobody uses: per process and the place that it connects to (client), and
-- per address that connects to a port here (server), the most unused first. A pool at work uses its
-- connections again; where came and unused rise together, with few reused or given_back, each request
-- opens one and leaves it. Whether one that was there before was used again is not told. What is
-- within one namespace stands once, as its client.
-- """
-- needs = ["tcp"]
-- uses = ["endpoint", "idle_pools", "netns_of"]
-- ranks = ["role", "comm", "pid", "place", "connections", "unused", "first", "came", "reused", "given_back", "idle_s"]
--
-- [columns]
-- role = "client: this end connected; server: the other did."
-- comm = "Process at this end, if all are of one name."
-- pid = "Its number, if it is one."
-- place = "Of a client the address and port it connects to; of a server the address that connects."
-- port = "Port that is connected to."
-- connections = "Open in the last sample."
-- first = "Of these, open in the first one."
-- came = "Of these, those that came later."
-- unused = "Of those that came: nothing was sent or received since five seconds after, for ten seconds at least."
-- reused = "Of those that came ten seconds ago or more: used again."
-- given_back = "Connections ten seconds old or more that are not open any more."
-- idle_s = "Longest that one of the unused has not been used, in seconds (last_data_sent_ms, last_data_recv_ms)."
-- since = "First sample that showed one of those that came, UTC."
-- until = "Last sample that showed any, UTC."
-- netns = "Inode number of the network namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "unused", type = "quantitative" }
-- y = { field = "place", sort = "-x" }
-- color = { field = "comm" }
WITH ranked AS (
  SELECT
    i.*,
    row_number() OVER (
      ORDER BY i.unused DESC, i.connections DESC, i.ns, i.role, i.addr, i.port, i.pid NULLS LAST, i.start_us NULLS LAST
    ) AS place_of
  FROM idle_pools AS i CROSS JOIN params
  WHERE i.connections > 0
  QUALIFY params.top = 0 OR place_of <= params.top
)
SELECT
  role, comm, pid, CASE WHEN role = 'client' THEN endpoint(addr, port) ELSE addr END AS place, port, connections, at_first AS first,
  came, unused, reused, given_back, round(idle_us / 1000000.0, 1) AS idle_s, since, until, netns_of(ns) AS netns
FROM ranked
ORDER BY place_of
