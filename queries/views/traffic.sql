-- title = "What connections moved in this time"
-- description = """
-- One row per connection of the view connections that was not closed before: what was added since
-- the recording began, or since the start that --from sets; what it had moved before is taken off.
-- """
-- uses = ["connections", "unmapped"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host, the key together with cookie."
-- cookie = "Identity of the socket."
-- netid = "Kind of socket."
-- role = "client or server; nothing if the sockets were never seen."
-- local_addr = "Local address, IPv4 as such."
-- local_port = "Local port."
-- peer_addr = "Peer address, IPv4 as such."
-- peer_port = "Peer port."
-- pid = "Process that held it last."
-- comm = "Name of that process."
-- attempt = "failed if it never got open."
-- closed = "Nothing if it is still open."
-- reset_by = "Which end reset it, as in connections."
-- sent = "Bytes sent, retransmissions included."
-- received = "Bytes received."
-- segs = "Segments sent."
-- retrans = "Segments sent again."
-- rtt_us = "Smoothed round-trip time, the last one known."
-- rtt_max_us = "The worst one known."
-- last_us = "Last moment it is known of."
WITH begun AS (
  SELECT ns, min(sample) AS sample
  FROM sockets
  GROUP BY ns
  -- More than any host has: it tells DuckDB that this is the small side of the join below.
  ORDER BY ns
  LIMIT 100000
),
firsts AS (
  SELECT
    ns, cookie, min(bytes_sent) AS bytes_sent, min(bytes_received) AS bytes_received,
    min(segs_out) AS segs_out, min(total_retrans) AS total_retrans
  FROM (
    SELECT s.ns, s.cookie, s.bytes_sent, s.bytes_received, s.segs_out, s.total_retrans
    FROM sockets AS s JOIN begun AS b USING (ns, sample)
    WHERE s.netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
    UNION ALL
    SELECT ns, cookie, bytes_sent, bytes_received, segs_out, total_retrans
    FROM baseline
  ) AS rows_before
  GROUP BY ns, cookie
)
SELECT
  c.ns, c.cookie, c.netid, c.role, unmapped(c.local_addr) AS local_addr, c.local_port,
  unmapped(c.peer_addr) AS peer_addr, c.peer_port, c.pid, c.comm, c.attempt, c.closed, c.reset_by,
  c.bytes_sent - CASE WHEN c.opened = 'before' THEN f.bytes_sent ELSE 0 END AS sent,
  c.bytes_received - CASE WHEN c.opened = 'before' THEN f.bytes_received ELSE 0 END AS received,
  c.segs_out - CASE WHEN c.opened = 'before' THEN f.segs_out ELSE 0 END AS segs,
  c.total_retrans - CASE WHEN c.opened = 'before' THEN f.total_retrans ELSE 0 END AS retrans,
  nullif(c.rtt_us, 0) AS rtt_us, nullif(c.rtt_max_us, 0) AS rtt_max_us, c.last_us
FROM connections AS c LEFT JOIN firsts AS f USING (ns, cookie)
WHERE c.closed IS NULL OR c.closed <> 'before'
