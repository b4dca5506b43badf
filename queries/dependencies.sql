-- title = "Who talks to whom"
-- description = """
-- The processes of this host as clients and servers of each other and of the world: one row per
-- client, server and service, the most bytes first. Read it as a map: what stops working if this
-- server does, and who causes its load. Where both ends are on this host they are joined by their
-- addresses and ports, in one namespace or, where only one other has such a connection, across two
-- (a connection that is translated on its way, NAT, stays in two rows); unix sockets by their
-- inodes. A remote end, and one whose process was not found, stands as its address. A client is who
-- connected; where nobody was seen listening the end with the lower port counts as the server.
-- Connections too short for their process to be found are counted for the only process that was seen
-- to use the same service. Bytes are what was added during the recording, or since the start that
-- --from sets; the kernel does not count those of unix sockets. Ends that reset their connection
-- have lost their peer: they are in a row without a server, and the other end, if it is here, in one
-- of its own.
-- """
-- needs = ["tcp", "unix", "closes"]
-- uses = ["endpoint", "netns_of", "process", "traffic"]
-- ranks = ["client", "server", "service", "connections", "open", "to_server_bytes", "to_client_bytes", "netid", "ends"]
--
-- [columns]
-- client = "Process that connects, else its address; empty if neither is known."
-- server = "Process that serves, else the address; empty if neither is known."
-- service = "Address and port (* is several addresses), or name of the unix socket; empty if it has none, as in a socket pair."
-- netid = "Kind: tcp, mptcp, sctp, dccp, u_str, u_seq or u_dgr."
-- ends = "Which ends are on this host: both, client or server."
-- connections = "Connections, failed attempts left out."
-- open = "Those still open at the end."
-- to_server_bytes = "From client to server in this time, retransmissions included."
-- to_client_bytes = "From server to client in this time."
-- client_netns = "Network namespace of the client; empty if it is not here."
-- server_netns = "Network namespace of the server; empty if it is not here."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "rect"
-- x = { field = "client", type = "nominal" }
-- y = { field = "server", type = "nominal" }
-- color = { field = "connections", type = "quantitative" }
WITH turned AS (
  SELECT
    ns, netid,
    CASE WHEN role IS NOT NULL THEN role WHEN local_port < peer_port THEN 'server' ELSE 'client' END AS side,
    -- What reset itself has lost its own address too.
    CASE WHEN side = 'server' THEN peer_addr WHEN local_addr NOT IN ('0.0.0.0', '::') THEN local_addr END AS client_addr,
    CASE WHEN side = 'client' THEN local_port ELSE peer_port END AS client_port,
    CASE WHEN side = 'client' THEN peer_addr ELSE local_addr END AS server_addr,
    CASE WHEN side = 'client' THEN peer_port ELSE local_port END AS server_port,
    pid, comm, CASE WHEN closed IS NULL THEN 1 ELSE 0 END AS still_open,
    CASE WHEN side = 'client' THEN sent ELSE received END AS to_server,
    CASE WHEN side = 'client' THEN received ELSE sent END AS to_client
  FROM traffic
  WHERE attempt IS NULL
),
named AS (
  SELECT
    *,
    CASE
      WHEN pid IS NOT NULL THEN process(comm, pid)
      WHEN server_port IS NULL OR min(comm) OVER service < max(comm) OVER service THEN NULL
      WHEN min(pid) OVER service = max(pid) OVER service THEN process(min(comm) OVER service, min(pid) OVER service)
      ELSE min(comm) OVER service
    END AS process
  FROM turned
  WINDOW service AS (PARTITION BY ns, side, server_addr, server_port)
),
pairs AS (
  -- One row per four addresses and ports of a namespace; a port that was used again makes several.
  SELECT
    ns, netid, client_addr, client_port, server_addr, server_port,
    count(*) FILTER (WHERE side = 'client') AS clients, count(*) FILTER (WHERE side = 'server') AS servers,
    sum(still_open) FILTER (WHERE side = 'client') AS clients_open,
    sum(still_open) FILTER (WHERE side = 'server') AS servers_open,
    max(process) FILTER (WHERE side = 'client') AS client, max(process) FILTER (WHERE side = 'server') AS server,
    sum(to_server) FILTER (WHERE side = 'client') AS sent, sum(to_client) FILTER (WHERE side = 'client') AS read_back,
    sum(to_server) FILTER (WHERE side = 'server') AS taken, sum(to_client) FILTER (WHERE side = 'server') AS given
  FROM named
  WHERE client_port IS NOT NULL AND server_port IS NOT NULL
  GROUP BY ns, netid, client_addr, client_port, server_addr, server_port
),
met AS (
  -- Of two namespaces, one with the client and one with the server: each other's only one.
  SELECT
    netid, client_addr, client_port, server_addr, server_port,
    min(ns) FILTER (WHERE servers = 0) AS client_ns, min(ns) FILTER (WHERE clients = 0) AS server_ns
  FROM pairs
  WHERE server_addr NOT LIKE '127.%' AND server_addr <> '::1'
  GROUP BY netid, client_addr, client_port, server_addr, server_port
  HAVING count(*) = 2 AND count(*) FILTER (WHERE servers = 0) = 1 AND count(*) FILTER (WHERE clients = 0) = 1
),
unix_ends AS (
  SELECT
    ns, cookie, max(netid) AS netid, max(inode) AS inode, max(peer_inode) AS peer_inode, max(local_addr) AS name,
    max(peer_addr) AS peer_name,
    max_by(process(comm, pid), sample) FILTER (WHERE pid IS NOT NULL) AS process, max(sample) AS last_sample
  FROM sockets
  WHERE netid IN ('u_str', 'u_seq', 'u_dgr') AND state <> 'LISTEN' AND inode > 0
  GROUP BY ns, cookie
),
unix_seen AS (
  SELECT ns, max(sample) AS last_sample
  FROM (
    SELECT ns, sample FROM samples WHERE step = 'unix' AND outcome = 'ok'
    UNION ALL
    SELECT ns, last_sample AS sample FROM unix_ends
  ) AS read_or_shown
  GROUP BY ns
),
edges AS (
  SELECT
    CASE WHEN p.clients > 0 THEN p.ns ELSE m.client_ns END AS client_ns,
    CASE WHEN p.servers > 0 THEN p.ns ELSE m.server_ns END AS server_ns,
    p.netid, coalesce(p.client, p.client_addr) AS client,
    CASE WHEN p.servers > 0 THEN p.server ELSE o.server END AS server_process,
    coalesce(server_process, p.server_addr) AS server,
    -- A server of this host is known by its port, on whichever of its addresses it was met.
    CASE WHEN server_process IS NULL THEN p.server_addr END AS address,
    p.server_port AS port, p.server_addr AS met_addr, NULL AS name,
    CASE WHEN p.clients > 0 AND p.clients >= p.servers THEN p.clients ELSE p.servers END AS connections,
    CASE WHEN p.clients > 0 THEN p.clients_open ELSE p.servers_open END AS still_open,
    coalesce(p.sent, p.taken, o.taken) AS to_server, coalesce(p.read_back, p.given, o.given) AS to_client
  FROM pairs AS p
  LEFT JOIN met AS m USING (netid, client_addr, client_port, server_addr, server_port)
  LEFT JOIN pairs AS o
    ON o.ns = m.server_ns AND o.netid = m.netid AND o.client_addr = m.client_addr AND o.client_port = m.client_port
    AND o.server_addr = m.server_addr AND o.server_port = m.server_port
  -- The client's row stands for both.
  WHERE m.server_ns IS NULL OR p.ns <> m.server_ns
  UNION ALL BY NAME
  SELECT
    ns AS client_ns, netid, coalesce(process, client_addr) AS client, server_addr AS server, server_addr AS address,
    server_port AS port, server_addr AS met_addr, 1 AS connections, still_open, to_server, to_client
  FROM named
  WHERE server_port IS NULL
  UNION ALL BY NAME
  SELECT
    a.ns AS client_ns, b.ns AS server_ns, a.netid, a.process AS client, b.process AS server,
    CASE WHEN b.name IS NULL THEN a.peer_name ELSE b.name END AS name,
    1 AS connections, CASE WHEN a.last_sample = s.last_sample THEN 1 ELSE 0 END AS still_open
  FROM unix_ends AS a
  JOIN unix_seen AS s USING (ns)
  LEFT JOIN unix_ends AS b ON b.inode = a.peer_inode
  WHERE a.peer_inode > 0
    -- Both ends of a pair name each other: the server is the one with a name.
    AND (
      b.inode IS NULL
      OR b.peer_inode IS NULL
      OR b.peer_inode <> a.inode
      OR (a.name IS NULL AND b.name IS NOT NULL)
      OR ((a.name IS NULL) = (b.name IS NULL) AND a.inode < b.inode)
    )
),
ranked AS (
  SELECT
    client_ns, server_ns, netid, client, server,
    CASE
      WHEN port IS NULL THEN name
      ELSE endpoint(CASE WHEN min(met_addr) < max(met_addr) THEN '*' ELSE min(met_addr) END, port)
    END AS service,
    CAST(sum(connections) AS BIGINT) AS connections, CAST(sum(still_open) AS BIGINT) AS still_open,
    CAST(sum(to_server) AS BIGINT) AS to_server, CAST(sum(to_client) AS BIGINT) AS to_client,
    row_number() OVER (
      ORDER BY
        coalesce(sum(to_server), 0) + coalesce(sum(to_client), 0) DESC, sum(connections) DESC, client NULLS LAST,
        server NULLS LAST, service NULLS LAST, netid, client_ns NULLS LAST, server_ns NULLS LAST
    ) AS place
  FROM edges CROSS JOIN params
  GROUP BY client_ns, server_ns, netid, client, server, address, port, name, params.top
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  client, server, service, netid,
  CASE
    WHEN client_ns IS NOT NULL AND server_ns IS NOT NULL THEN 'both'
    WHEN server_ns IS NOT NULL THEN 'server'
    ELSE 'client'
  END AS ends,
  connections, still_open AS open, to_server AS to_server_bytes, to_client AS to_client_bytes,
  netns_of(client_ns) AS client_netns, netns_of(server_ns) AS server_netns
FROM ranked
ORDER BY place
