-- title = "What filled each connection tracking table when it was fullest"
-- description = """
-- One row per namespace and what entries have in common, of the look that found most of them.
-- """
-- uses = ["is_loopback", "unmapped"]
-- [columns]
-- entries = "Entries."
-- of_entries = "Of so many in that table."
-- place = "From the most on, 1 is most."
-- pid = "Process whose connections these are, if one is known: who connects, else who is connected to."
-- role = "What that process does: connects or serves."
-- processes = "How many processes these are."
WITH looks AS (
  SELECT ns, sample, CAST(sum(entries) AS BIGINT) AS of_entries
  FROM conntrack
  GROUP BY ns, sample
  QUALIFY row_number() OVER (PARTITION BY ns ORDER BY sum(entries) DESC, sample) = 1
),
groups AS MATERIALIZED (
  SELECT
    c.ns, c.t_us, c.sample_time, c.family, c.protocol, c.source, c.destination, c.port, c.nat_source, c.nat_destination, c.nat_port, c.state,
    c.unreplied, c.entries, l.of_entries,
    row_number() OVER (
      PARTITION BY c.ns
      ORDER BY c.entries DESC, c.source NULLS LAST, c.destination, c.port, c.protocol, c.state, c.unreplied, c.nat_source, c.nat_port, c.nat_destination
    ) AS place
  FROM conntrack AS c JOIN looks AS l USING (ns, sample)
),
named AS (
  SELECT DISTINCT
    coalesce(source, '') AS source, coalesce(nat_destination, destination) AS server, coalesce(nat_port, port) AS server_port, destination, port
  FROM groups
  WHERE source IS NOT NULL
),
seen AS (
  -- Containers behind it have namespaces of their own, so that a socket may be in any.
  SELECT DISTINCT unmapped(local_addr) AS local_addr, local_port, unmapped(peer_addr) AS peer_addr, peer_port, pid, comm
  FROM sockets
  WHERE pid IS NOT NULL AND peer_port <> 0 AND netid IN ('tcp', 'udp', 'udplite', 'sctp', 'dccp') AND NOT is_loopback(local_addr)
    -- Where nothing was tracked no socket is read.
    AND unmapped(local_addr) IN (SELECT source FROM named UNION ALL SELECT server FROM named)
),
users AS (
  SELECT n.source, n.destination, n.port, n.server, n.server_port, s.pid, s.comm, 'connects' AS role
  FROM named AS n JOIN seen AS s ON s.local_addr = n.source AND s.peer_addr = n.destination AND s.peer_port = n.port
  UNION ALL
  SELECT n.source, n.destination, n.port, n.server, n.server_port, s.pid, s.comm, 'serves'
  FROM named AS n JOIN seen AS s ON s.local_addr = n.server AND s.local_port = n.server_port
),
known AS (
  SELECT
    source, destination, port, server, server_port, role, count(DISTINCT pid) AS processes, min(pid) AS pid, min_by(comm, pid) AS comm
  FROM users
  GROUP BY source, destination, port, server, server_port, role
  QUALIFY row_number() OVER (PARTITION BY source, destination, port, server, server_port ORDER BY role) = 1
)
SELECT g.*, k.pid, k.comm, k.role, k.processes
FROM groups AS g
LEFT JOIN known AS k
  ON k.source = g.source AND k.destination = g.destination AND k.port = g.port AND k.server = coalesce(g.nat_destination, g.destination)
  AND k.server_port = coalesce(g.nat_port, g.port)
