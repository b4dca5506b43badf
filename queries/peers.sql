-- title = "Peers: traffic, trouble and round trips"
-- description = """
-- Which peers and services this host talked to, what was moved in the time of the recording, and how
-- well: the most bytes first, or what order says. Segments retransmitted above 1 % are a bad path or
-- an overloaded peer (retransmits says which connections); a worst round trip far above the median
-- is a queue on the way (rtt); failed attempts are a peer that does not answer, resets are ends that
-- give up. Bytes and segments are what was added during the recording, or since the start that
-- --from sets: what a connection had moved before is taken off. A connection over loopback stands
-- once as a peer that was connected to, and once as one that connected. Ends that reset their
-- connection, or were refused between two samples, have no peer and no totals left in the kernel:
-- they stand in the row without a peer.
-- """
-- needs = ["tcp", "closes"]
--
-- [columns]
-- way = "to: this host connects to it; from: it connects to this host; nothing if that is not known."
-- peer_addr = "Address of the peer; nothing where the kernel has cleared it."
-- port = "Port of the service: of the peer, or of this host if the peer connects."
-- comm = "Process of this host that talks to it; * is several, nothing if none was found."
-- connections = "Connections, failed attempts left out."
-- open = "Those still open at the end."
-- sent_bytes = "Sent to it in this time, retransmissions included."
-- received_bytes = "Received from it in this time."
-- retrans_percent = "Share of the segments sent in this time that were retransmissions."
-- rtt_us = "Smoothed round-trip time, the last one known of each connection: median."
-- rtt_max_us = "The worst one known."
-- resets = "Connections that this end reset, or attempts refused."
-- failed = "Attempts that never got open."
-- netns = "Inode number of the network namespace."
--
-- [params.order]
-- type = "VARCHAR"
-- default = "bytes"
-- doc = "What comes first: bytes (both ways), connections, retrans (segments), rtt (worst), resets or failed; any other word means bytes."
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
WITH begun AS (
  SELECT netns, min(sample) AS sample
  FROM sockets
  GROUP BY netns
  -- More than any host has: it tells DuckDB that this is the small side of the join below.
  LIMIT 100000
),
firsts AS (
  -- What the connections that were open before had moved by then.
  SELECT
    netns,
    cookie,
    min(bytes_sent) AS bytes_sent,
    min(bytes_received) AS bytes_received,
    min(segs_out) AS segs_out,
    min(total_retrans) AS total_retrans
  FROM (
    SELECT s.netns, s.cookie, s.bytes_sent, s.bytes_received, s.segs_out, s.total_retrans
    FROM sockets AS s
    JOIN begun AS b
      ON b.netns = s.netns
      AND b.sample = s.sample
    WHERE s.netid IN ('tcp', 'mptcp', 'sctp', 'dccp')
    UNION ALL
    SELECT netns, cookie, bytes_sent, bytes_received, segs_out, total_retrans
    FROM baseline
  ) AS rows_before
  GROUP BY netns, cookie
),
ends AS (
  SELECT
    c.netns,
    CASE c.role WHEN 'client' THEN 'to' WHEN 'server' THEN 'from' END AS way,
    CASE WHEN c.peer_addr LIKE '::ffff:%' THEN substr(c.peer_addr, 8) ELSE c.peer_addr END AS peer_addr,
    CASE WHEN c.role = 'server' THEN c.local_port ELSE c.peer_port END AS port,
    c.comm,
    c.attempt,
    c.closed,
    c.closed_first,
    CASE WHEN c.opened = 'before' THEN c.bytes_sent - f.bytes_sent ELSE c.bytes_sent END AS sent,
    CASE WHEN c.opened = 'before' THEN c.bytes_received - f.bytes_received ELSE c.bytes_received END
      AS received,
    CASE WHEN c.opened = 'before' THEN c.segs_out - f.segs_out ELSE c.segs_out END AS segs,
    CASE WHEN c.opened = 'before' THEN c.total_retrans - f.total_retrans ELSE c.total_retrans END
      AS retrans,
    nullif(c.rtt_us, 0) AS rtt_us,
    nullif(c.rtt_max_us, 0) AS rtt_max_us
  FROM connections AS c
  LEFT JOIN firsts AS f
    ON f.netns = c.netns
    AND f.cookie = c.cookie
  WHERE c.closed IS NULL OR c.closed <> 'before'
),
peers AS (
  SELECT
    netns,
    way,
    peer_addr,
    port,
    CASE WHEN min(comm) < max(comm) THEN '*' ELSE min(comm) END AS comm,
    count(CASE WHEN attempt IS NULL THEN 1 END) AS connections,
    count(CASE WHEN closed IS NULL THEN 1 END) AS still_open,
    CAST(sum(sent) AS BIGINT) AS sent,
    CAST(sum(received) AS BIGINT) AS received,
    CAST(sum(retrans) AS BIGINT) AS retrans,
    CAST(sum(segs) AS BIGINT) AS segs,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY rtt_us) AS rtt_us,
    max(rtt_max_us) AS rtt_max_us,
    count(CASE WHEN closed_first = 'reset' THEN 1 END) AS resets,
    count(attempt) AS failed
  FROM ends
  GROUP BY netns, way, peer_addr, port
),
ranked AS (
  SELECT
    peers.*,
    row_number() OVER (
      ORDER BY
        CASE params.order
          WHEN 'connections' THEN peers.connections
          WHEN 'retrans' THEN peers.retrans
          WHEN 'rtt' THEN peers.rtt_max_us
          WHEN 'resets' THEN peers.resets
          WHEN 'failed' THEN peers.failed
          ELSE coalesce(peers.sent, 0) + coalesce(peers.received, 0)
        END DESC NULLS LAST,
        peers.connections + peers.failed DESC,
        peers.netns,
        peers.peer_addr NULLS LAST,
        peers.port NULLS LAST,
        peers.way NULLS LAST
    ) AS place
  FROM peers
  CROSS JOIN params
)
SELECT
  ranked.way AS way,
  ranked.peer_addr AS peer_addr,
  ranked.port AS port,
  ranked.comm AS comm,
  ranked.connections AS connections,
  ranked.still_open AS open,
  ranked.sent AS sent_bytes,
  ranked.received AS received_bytes,
  round(100.0 * ranked.retrans / nullif(ranked.segs, 0), 2) AS retrans_percent,
  CAST(ranked.rtt_us AS BIGINT) AS rtt_us,
  ranked.rtt_max_us AS rtt_max_us,
  ranked.resets AS resets,
  ranked.failed AS failed,
  ranked.netns AS netns
FROM ranked
CROSS JOIN params
WHERE params.top = 0 OR ranked.place <= params.top
ORDER BY ranked.place
