-- title = "What the kernel's counters grew by"
-- description = """
-- One row per counter of a network namespace: what it grew by in the time, from the last reading
-- before --from or from the first one. Counters that did not move have a growth of 0; of levels, as
-- sockets in use, only what they rose by is told.
-- """
-- uses = ["counter_steps", "netns_of"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host."
-- netns = "Inode number of the network namespace; 0 for the whole host."
-- source = "File: snmp, snmp6, netstat, sockstat, sockstat6, softnet_stat, nf_conntrack, file-nr."
-- name = "Name as the file has it, the group before: Tcp.ActiveOpens."
-- growth = "What it grew by."
-- since = "First sample that saw it grow."
-- until = "Last sample that saw it grow."
SELECT
  ns, netns_of(ns) AS netns, source, name, CAST(coalesce(sum(growth), 0) AS BIGINT) AS growth,
  min(sample_time) FILTER (WHERE growth > 0) AS since, max(sample_time) FILTER (WHERE growth > 0) AS until
FROM counter_steps
GROUP BY ns, source, name
