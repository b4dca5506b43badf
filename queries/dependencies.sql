-- title = "Who talks to whom"
-- description = """
-- The processes of this host as clients and servers of each other and of the world: one row per
-- client, server and service, the most bytes first. Read it as a map: what stops working if this
-- server does, and who causes its load. Where both ends are on this host they are joined by their
-- addresses and ports, in one namespace or, where only one other has such a connection, across two
-- (a connection that is translated on its way, NAT, stays in two rows); unix sockets by their
-- inodes. A remote end, and one whose process was not found, stands as its address. A client is
-- who connected; where nobody was seen listening the end with the lower port counts as the server.
-- Connections too short for their process to be found are put with the only process that was seen
-- to use the same service. Bytes are what was added during the recording, or since the start that
-- --from sets; the kernel does not count those of unix sockets. Ends that reset their connection
-- have lost their peer: they stand in a row without a server, and the other end, if it is here, in
-- one of its own.
-- """
-- needs = ["tcp", "unix", "closes"]
--
-- [columns]
-- client = "Process that connects, else its address; nothing if neither is known."
-- server = "Process that serves, else the address; nothing if neither is known."
-- service = "Address and port (* is several addresses), or name of the unix socket; nothing if it has none, as in a socket pair."
-- netid = "Kind: tcp, mptcp, sctp, dccp, u_str, u_seq or u_dgr."
-- ends = "Which ends are on this host: both, client or server."
-- connections = "Connections, failed attempts left out."
-- open = "Those still open at the end."
-- to_server_bytes = "From client to server in this time, retransmissions included."
-- to_client_bytes = "From server to client in this time."
-- client_netns = "Network namespace of the client; nothing if it is not here."
-- server_netns = "Network namespace of the server; nothing if it is not here."
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
WITH begun AS (
  SELECT netns, min(sample) AS sample
  FROM sockets
  GROUP BY netns
  -- More than any host has: it tells DuckDB that this is the small side of the join below.
  LIMIT 100000
),
firsts AS (
  -- What the connections that were open before had moved by then.
  SELECT netns, cookie, min(bytes_sent) AS bytes_sent, min(bytes_received) AS bytes_received
  FROM (
    SELECT s.netns, s.cookie, s.bytes_sent, s.bytes_received
    FROM sockets AS s
    JOIN begun AS b
      ON b.netns = s.netns
      AND b.sample = s.sample
    WHERE s.netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
    UNION ALL
    SELECT netns, cookie, bytes_sent, bytes_received
    FROM baseline
  ) AS rows_before
  GROUP BY netns, cookie
),
ends AS (
  SELECT
    c.netns,
    c.netid,
    CASE
      WHEN c.role IS NOT NULL THEN c.role
      WHEN c.local_port < c.peer_port THEN 'server'
      ELSE 'client'
    END AS role,
    CASE WHEN c.local_addr LIKE '::ffff:%' THEN substr(c.local_addr, 8) ELSE c.local_addr END
      AS local_addr,
    c.local_port,
    CASE WHEN c.peer_addr LIKE '::ffff:%' THEN substr(c.peer_addr, 8) ELSE c.peer_addr END
      AS peer_addr,
    c.peer_port,
    c.pid,
    c.comm,
    CASE WHEN c.closed IS NULL THEN 1 ELSE 0 END AS still_open,
    CASE WHEN c.opened = 'before' THEN c.bytes_sent - f.bytes_sent ELSE c.bytes_sent END AS sent,
    CASE WHEN c.opened = 'before' THEN c.bytes_received - f.bytes_received ELSE c.bytes_received END
      AS received
  FROM connections AS c
  LEFT JOIN firsts AS f
    ON f.netns = c.netns
    AND f.cookie = c.cookie
  WHERE c.attempt IS NULL AND (c.closed IS NULL OR c.closed <> 'before')
),
turned AS (
  SELECT
    netns,
    netid,
    role,
    CASE
      WHEN role = 'server' THEN peer_addr
      -- What reset itself has lost its own address too.
      WHEN local_addr NOT IN ('0.0.0.0', '::') THEN local_addr
    END AS client_addr,
    CASE WHEN role = 'client' THEN local_port ELSE peer_port END AS client_port,
    CASE WHEN role = 'client' THEN peer_addr ELSE local_addr END AS server_addr,
    CASE WHEN role = 'client' THEN peer_port ELSE local_port END AS server_port,
    pid,
    comm,
    still_open,
    CASE WHEN role = 'client' THEN sent ELSE received END AS to_server,
    CASE WHEN role = 'client' THEN received ELSE sent END AS to_client
  FROM ends
),
users AS (
  SELECT
    *,
    min(pid) OVER service AS least_pid,
    max(pid) OVER service AS most_pid,
    min(comm) OVER service AS least_comm,
    max(comm) OVER service AS most_comm
  FROM turned
  WINDOW service AS (PARTITION BY netns, role, server_addr, server_port)
),
named AS (
  SELECT
    users.*,
    CASE
      WHEN pid IS NOT NULL THEN concat(comm, ' (', pid, ')')
      WHEN server_port IS NULL OR least_comm IS NULL OR least_comm < most_comm THEN NULL
      WHEN least_pid = most_pid THEN concat(least_comm, ' (', least_pid, ')')
      ELSE least_comm
    END AS process
  FROM users
),
pairs AS (
  -- One row per four addresses and ports of a namespace; a port that was used again makes several.
  SELECT
    netns,
    netid,
    client_addr,
    client_port,
    server_addr,
    server_port,
    count(CASE WHEN role = 'client' THEN 1 END) AS clients,
    count(CASE WHEN role = 'server' THEN 1 END) AS servers,
    sum(CASE WHEN role = 'client' THEN still_open END) AS clients_open,
    sum(CASE WHEN role = 'server' THEN still_open END) AS servers_open,
    max(CASE WHEN role = 'client' THEN process END) AS client,
    max(CASE WHEN role = 'server' THEN process END) AS server,
    sum(CASE WHEN role = 'client' THEN to_server END) AS sent,
    sum(CASE WHEN role = 'client' THEN to_client END) AS read_back,
    sum(CASE WHEN role = 'server' THEN to_server END) AS taken,
    sum(CASE WHEN role = 'server' THEN to_client END) AS given
  FROM named
  WHERE client_port IS NOT NULL AND server_port IS NOT NULL
  GROUP BY netns, netid, client_addr, client_port, server_addr, server_port
),
met AS (
  -- Of two namespaces, one with the client and one with the server: each other's only one.
  SELECT
    netid,
    client_addr,
    client_port,
    server_addr,
    server_port,
    min(CASE WHEN servers = 0 THEN netns END) AS client_netns,
    min(CASE WHEN clients = 0 THEN netns END) AS server_netns
  FROM pairs
  WHERE server_addr NOT LIKE '127.%' AND server_addr <> '::1'
  GROUP BY netid, client_addr, client_port, server_addr, server_port
  HAVING count(*) = 2 AND count(CASE WHEN servers = 0 THEN 1 END) = 1
    AND count(CASE WHEN clients = 0 THEN 1 END) = 1
),
joined AS (
  SELECT
    p.netid,
    p.client_addr,
    p.server_addr,
    p.server_port,
    CASE WHEN p.clients > 0 THEN p.netns ELSE m.client_netns END AS client_netns,
    CASE WHEN p.servers > 0 THEN p.netns ELSE m.server_netns END AS server_netns,
    p.client,
    CASE WHEN p.servers > 0 THEN p.server ELSE o.server END AS server,
    CASE WHEN p.clients > 0 AND p.clients >= p.servers THEN p.clients ELSE p.servers END
      AS connections,
    CASE WHEN p.clients > 0 THEN p.clients_open ELSE p.servers_open END AS still_open,
    coalesce(p.sent, p.taken, o.taken) AS to_server,
    coalesce(p.read_back, p.given, o.given) AS to_client
  FROM pairs AS p
  LEFT JOIN met AS m
    ON m.netid = p.netid
    AND m.client_addr = p.client_addr
    AND m.client_port = p.client_port
    AND m.server_addr = p.server_addr
    AND m.server_port = p.server_port
  LEFT JOIN pairs AS o
    ON o.netns = m.server_netns
    AND o.netid = m.netid
    AND o.client_addr = m.client_addr
    AND o.client_port = m.client_port
    AND o.server_addr = m.server_addr
    AND o.server_port = m.server_port
  -- The client's row stands for both.
  WHERE m.server_netns IS NULL OR p.netns <> m.server_netns
  UNION ALL
  SELECT
    netid,
    client_addr,
    server_addr,
    server_port,
    netns AS client_netns,
    CAST(NULL AS BIGINT) AS server_netns,
    process AS client,
    CAST(NULL AS VARCHAR) AS server,
    1 AS connections,
    still_open,
    to_server,
    to_client
  FROM named
  WHERE server_port IS NULL
),
streams AS (
  SELECT
    client_netns,
    server_netns,
    netid,
    coalesce(client, client_addr) AS client,
    coalesce(server, server_addr) AS server,
    -- A server of this host is known by its port, on whichever of its addresses it was met.
    CASE WHEN server IS NULL THEN server_addr END AS address,
    server_port AS port,
    server_addr AS met_addr,
    CAST(NULL AS VARCHAR) AS name,
    connections,
    still_open,
    to_server,
    to_client
  FROM joined
),
unix_ends AS (
  SELECT
    netns,
    cookie,
    max(netid) AS netid,
    max(inode) AS inode,
    max(peer_inode) AS peer_inode,
    max(local_addr) AS name,
    max(peer_addr) AS peer_name,
    max_by(CASE WHEN pid IS NULL THEN NULL ELSE concat(comm, ' (', pid, ')') END, sample) AS process,
    max(sample) AS last_sample
  FROM sockets
  WHERE netid IN ('u_str', 'u_seq', 'u_dgr') AND state <> 'LISTEN' AND inode > 0
  GROUP BY netns, cookie
),
unix_seen AS (
  SELECT netns, max(sample) AS last_sample
  FROM (
    SELECT netns, sample FROM samples WHERE step = 'unix' AND outcome = 'ok'
    UNION ALL
    SELECT netns, last_sample AS sample FROM unix_ends
  ) AS read_or_shown
  GROUP BY netns
),
unix_pairs AS (
  SELECT
    a.netns AS client_netns,
    b.netns AS server_netns,
    a.netid,
    a.process AS client,
    b.process AS server,
    CASE WHEN b.name IS NULL THEN a.peer_name ELSE b.name END AS service,
    CASE WHEN a.last_sample = s.last_sample THEN 1 ELSE 0 END AS still_open
  FROM unix_ends AS a
  JOIN unix_seen AS s
    ON s.netns = a.netns
  LEFT JOIN unix_ends AS b
    ON b.inode = a.peer_inode
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
edges AS (
  SELECT
    client_netns,
    server_netns,
    netid,
    client,
    server,
    address,
    port,
    met_addr,
    name,
    connections,
    still_open,
    to_server,
    to_client
  FROM streams
  UNION ALL
  SELECT
    client_netns,
    server_netns,
    netid,
    client,
    server,
    CAST(NULL AS VARCHAR) AS address,
    CAST(NULL AS INTEGER) AS port,
    CAST(NULL AS VARCHAR) AS met_addr,
    service AS name,
    1 AS connections,
    still_open,
    CAST(NULL AS BIGINT) AS to_server,
    CAST(NULL AS BIGINT) AS to_client
  FROM unix_pairs
),
summed AS (
  SELECT
    client_netns,
    server_netns,
    netid,
    client,
    server,
    CASE
      WHEN port IS NULL THEN name
      WHEN min(met_addr) < max(met_addr) THEN concat('*:', port)
      WHEN min(met_addr) LIKE '%:%' THEN concat('[', min(met_addr), ']:', port)
      ELSE concat(min(met_addr), ':', port)
    END AS service,
    CAST(sum(connections) AS BIGINT) AS connections,
    CAST(sum(still_open) AS BIGINT) AS still_open,
    CAST(sum(to_server) AS BIGINT) AS to_server,
    CAST(sum(to_client) AS BIGINT) AS to_client
  FROM edges
  GROUP BY client_netns, server_netns, netid, client, server, address, port, name
),
ranked AS (
  SELECT
    *,
    row_number() OVER (
      ORDER BY
        coalesce(to_server, 0) + coalesce(to_client, 0) DESC,
        connections DESC,
        client NULLS LAST,
        server NULLS LAST,
        service NULLS LAST,
        netid,
        client_netns NULLS LAST,
        server_netns NULLS LAST
    ) AS place
  FROM summed
)
SELECT
  ranked.client AS client,
  ranked.server AS server,
  ranked.service AS service,
  ranked.netid AS netid,
  CASE
    WHEN ranked.client_netns IS NOT NULL AND ranked.server_netns IS NOT NULL THEN 'both'
    WHEN ranked.server_netns IS NOT NULL THEN 'server'
    ELSE 'client'
  END AS ends,
  ranked.connections AS connections,
  ranked.still_open AS open,
  ranked.to_server AS to_server_bytes,
  ranked.to_client AS to_client_bytes,
  ranked.client_netns AS client_netns,
  ranked.server_netns AS server_netns
FROM ranked
CROSS JOIN params
WHERE params.top = 0 OR ranked.place <= params.top
ORDER BY ranked.place
