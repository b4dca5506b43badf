-- title = "Ports that were listened on, and by whom"
-- description = "Of the whole recording: --where may choose no listener. One row per TCP port."
-- uses = ["the_only"]
-- [columns]
-- ns = "Network namespace."
-- local_port = "Port."
-- pid = "Process that listens, if it is one."
-- comm = "Its name, if they all have the same."
SELECT ns, local_port, the_only(pid) AS pid, the_only(comm) AS comm
FROM raw.sockets
WHERE state = 'LISTEN' AND netid = 'tcp'
GROUP BY ns, local_port
-- More than any host has: it tells DuckDB that this is the small side of a join.
ORDER BY ns, local_port
LIMIT 100000
