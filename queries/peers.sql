-- title = "Peers: traffic, trouble and round trips"
-- description = """
-- Which peers and services this host talked to, what was moved in the time of the recording, and how
-- well: the most bytes first, or what order says. More than 1 % of segments retransmitted means a
-- bad path or an overloaded peer (retransmits says which connections); a worst round trip far above
-- the median is a queue on the way (rtt); failed attempts mean a peer that does not answer, resets
-- an end that gave up. Bytes and segments are what was added during the recording, or since the
-- start that --from sets: what a connection had moved before is subtracted. A connection over
-- loopback appears twice: once as a peer that was connected to, and once as one that connected. Ends
-- that reset their connection, or were refused between two samples, have no peer and no totals left
-- in the kernel: they are in the row without a peer. By interface it is one line for each interface
-- that the connections go out by, as routes and rules give it for their addresses.
-- """
-- needs = ["tcp", "closes"]
-- uses = ["address_bits", "fib", "in_prefix", "is_loopback", "netns_of", "the_only", "traffic"]
-- ranks = [
--   "way", "peer_addr", "port", "comm", "connections", "open", "failed", "resets", "retrans_percent", "rtt_us",
--   "sent_bytes", "received_bytes",
-- ]
--
-- [columns]
-- way = "to: this host connects to it; from: it connects to this host; empty if that is not known."
-- peer_addr = "Address of the peer; empty where the kernel has cleared it."
-- port = "Port of the service: of the peer, or of this host if the peer connects."
-- comm = "Process of this host that talks to it; * is several, empty if none was found."
-- connections = "Connections, failed attempts left out."
-- open = "Those still open at the end."
-- sent_bytes = "Sent to it in this time, retransmissions included."
-- received_bytes = "Received from it in this time."
-- retrans_percent = "Share of the segments sent in this time that were retransmissions."
-- rtt_us = "Smoothed round-trip time, the last one known of each connection: median."
-- rtt_max_us = "The worst one known."
-- resets = "Connections that this end reset, or closed with data unread, or that the peer reset before it had acknowledged all; attempts refused."
-- failed = "Attempts that never got open."
-- dev = "Interface that connections to it go out by; empty if there are several, or it is not known."
-- netns = "Inode number of the network namespace."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "peer"
-- choices = ["peer", "interface"]
-- doc = "What a line is: a peer with its port, or all that goes out by one interface."
--
-- [params.order]
-- type = "VARCHAR"
-- default = "bytes"
-- choices = ["bytes", "connections", "retrans", "rtt", "resets", "failed"]
-- doc = "What comes first: bytes (both ways), connections, retrans (segments), rtt (worst), resets or failed."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many peers are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "sent_bytes", type = "quantitative" }
-- y = { field = "peer_addr", sort = "-x" }
-- color = { field = "comm" }
WITH moved AS MATERIALIZED (
  SELECT * FROM traffic
),
pairs AS (
  SELECT
    ns, local_addr, peer_addr, max(last_us) AS last_us, address_bits(local_addr) AS local_bits, address_bits(peer_addr) AS peer_bits
  FROM moved
  WHERE peer_addr IS NOT NULL
  GROUP BY ns, local_addr, peer_addr
),
routed AS (
  SELECT
    p.ns, p.local_addr, p.peer_addr, r.is_sure, r.dev,
    rank() OVER (
      PARTITION BY p.ns, p.local_addr, p.peer_addr ORDER BY r.rule_priority, r.prefix_len DESC, r.is_sure, r.priority NULLS FIRST
    ) AS choice
  FROM pairs AS p
  JOIN fib AS r
    ON r.ns = p.ns AND r.since_us <= p.last_us AND coalesce(r.until_us, p.last_us + 1) > p.last_us
    AND in_prefix(p.local_bits, r.from_bits, r.from_len) AND in_prefix(p.peer_bits, r.to_bits, r.to_len)
    AND in_prefix(p.peer_bits, r.bits, r.prefix_len)
  WHERE NOT is_loopback(p.peer_addr) AND NOT EXISTS (SELECT 1 FROM addresses AS a WHERE a.ns = p.ns AND a.address = p.peer_addr)
),
ways_out AS (
  SELECT ns, local_addr, peer_addr, the_only(dev) AS dev
  FROM routed
  WHERE choice = 1
  GROUP BY ns, local_addr, peer_addr
  HAVING bool_and(is_sure)
  UNION ALL
  SELECT ns, local_addr, peer_addr, 'lo'
  FROM pairs AS p
  WHERE is_loopback(peer_addr) OR EXISTS (SELECT 1 FROM addresses AS a WHERE a.ns = p.ns AND a.address = p.peer_addr)
),
summed AS (
  SELECT
    ns,
    CASE role WHEN 'client' THEN 'to' WHEN 'server' THEN 'from' END AS way,
    CASE WHEN params.by = 'peer' THEN peer_addr END AS peer_addr,
    CASE WHEN params.by <> 'peer' THEN NULL WHEN role = 'server' THEN local_port ELSE peer_port END AS port,
    CASE WHEN params.by = 'interface' THEN w.dev END AS interface, CASE WHEN min(w.dev) = max(w.dev) AND count(w.dev) = count(*) THEN min(w.dev) END AS dev,
    CASE WHEN min(comm) < max(comm) THEN '*' ELSE min(comm) END AS comm,
    count(*) FILTER (WHERE attempt IS NULL) AS connections,
    count(*) FILTER (WHERE closed IS NULL) AS still_open,
    CAST(sum(sent) AS BIGINT) AS sent, CAST(sum(received) AS BIGINT) AS received,
    CAST(sum(retrans) AS BIGINT) AS retrans, CAST(sum(segs) AS BIGINT) AS segs,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY rtt_us) AS rtt_us, max(rtt_max_us) AS rtt_max_us,
    count(reset_by) AS resets,
    count(attempt) AS failed
  FROM moved LEFT JOIN ways_out AS w USING (ns, local_addr, peer_addr) CROSS JOIN params
  GROUP BY ALL
),
ranked AS (
  SELECT
    summed.*,
    row_number() OVER (
      ORDER BY
        CASE params.order
          WHEN 'connections' THEN connections
          WHEN 'retrans' THEN retrans
          WHEN 'rtt' THEN rtt_max_us
          WHEN 'resets' THEN resets
          WHEN 'failed' THEN failed
          ELSE coalesce(sent, 0) + coalesce(received, 0)
        END DESC NULLS LAST,
        connections + failed DESC, ns, peer_addr NULLS LAST, port NULLS LAST, way NULLS LAST, interface NULLS LAST
    ) AS place
  FROM summed CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  way, peer_addr, port, comm, connections, still_open AS open, sent AS sent_bytes, received AS received_bytes,
  round(100.0 * retrans / nullif(segs, 0), 2) AS retrans_percent,
  CAST(rtt_us AS BIGINT) AS rtt_us, rtt_max_us, resets, failed, dev, netns_of(ns) AS netns
FROM ranked
ORDER BY place
