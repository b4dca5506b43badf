-- title = "Who fills the connection tracking table"
-- description = """
-- What the table of a firewall or NAT gateway held when it was fullest, counted by who asked for what;
-- the most first. Entries outlive their connections, TIME_WAIT by two minutes and what is silent by
-- days, so that they tell of more than there is. unreplied are those to which nothing came back: scans,
-- floods, and services that are gone. Where addresses are translated it says what the other side sees,
-- and comm and pid are the process of this host behind it, as of a container. Recorded by --conntrack.
-- """
-- needs = ["conntrack"]
-- uses = ["netns_of", "tracked"]
-- ranks = [
--   "entries", "share_percent", "protocol", "state", "source", "destination", "port", "comm", "pid", "role", "unreplied", "netns",
-- ]
--
-- [columns]
-- entries = "Entries that have all the rest in common."
-- share_percent = "Share of them in all entries of that table."
-- protocol = "tcp, udp, icmp …"
-- state = "State of TCP as the table has it."
-- unreplied = "Whether nothing was ever answered."
-- source = "Who began it; empty of what is counted together, as too few have it in common."
-- destination = "The address that was asked for."
-- port = "The port that was asked for."
-- nat_source = "What the destination sees in place of source."
-- nat_destination = "What answers in place of destination."
-- nat_port = "The port that answers."
-- comm = "Process of this host whose connections they are: who connects, else who is connected to; * is several."
-- pid = "Its number, if it is one."
-- role = "connects or serves."
-- time = "When the table was fullest, UTC."
-- netns = "Inode number of the network namespace whose table it is."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many lines are listed of each table; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "entries", type = "quantitative" }
-- y = { field = "source", sort = "-x" }
-- color = { field = "state" }
SELECT
  entries, round(100.0 * entries / of_entries, 1) AS share_percent, protocol, state, unreplied, source, destination, port, nat_source,
  nat_destination, nat_port, CASE WHEN processes > 1 THEN '*' ELSE comm END AS comm, CASE WHEN processes = 1 THEN pid END AS pid, role,
  sample_time AS time, netns_of(ns) AS netns
FROM tracked CROSS JOIN params
WHERE params.top = 0 OR place <= params.top
ORDER BY of_entries DESC, ns, place
