-- title = "Connections one by one"
-- description = """
-- The connections that lived longest, moved most bytes, retransmitted most, waited longest or had
-- the fullest queues, as order says: the worst first, with the states each went through. One that
-- sits in CLOSE-WAIT waits for its own process to close it (close_wait); many retransmissions mean a
-- bad path or a peer that is gone (retransmits, stalls); a full Recv-Q is a process that does not
-- read, a full Send-Q a peer that does not (queue_growth). Totals are of the whole life, from before
-- the recording too; peers says what was moved during it. A connection over loopback has two rows,
-- one for each end. A state is dated by the first sample that showed it; shorter ones are not seen.
-- What the kernel had cleared when a socket reset its connection is empty, never 0. Interface and next
-- hop are those that the routes and rules of its last moment gave its addresses.
-- """
-- needs = ["tcp"]
-- uses = ["address_bits", "connections", "fib", "in_prefix", "is_loopback", "larger", "since_opened", "the_only", "unmapped"]
-- ranks = [
--   "comm", "pid", "role", "local", "peer", "duration_us", "life", "first_time", "sent_bytes", "received_bytes",
--   "retrans_percent", "rtt_us",
-- ]
--
-- [columns]
-- comm = "Process that held it last; empty if it was not found."
-- pid = "Its number."
-- role = "Whether this end connected (client) or accepted (server)."
-- local = "Local address and port."
-- peer = "Peer address and port; empty where the kernel has cleared it."
-- first_time = "First moment it is known of, UTC."
-- duration_us = "From then to its last moment known, TIME-WAIT left out: at least so long."
-- life = "Its states with the time from first_time to the first sample of each, and how it ended."
-- sent_bytes = "Sent, retransmissions included."
-- received_bytes = "Received."
-- retrans = "Segments retransmitted."
-- retrans_percent = "Share of them in the segments sent."
-- rtt_us = "Smoothed round-trip time, the worst one known."
-- recv_q_peak_bytes = "Most bytes that waited to be read in a sample."
-- send_q_peak_bytes = "Most bytes that waited to be sent or acknowledged in a sample."
-- dev = "Interface that it went out by; empty if that is not known, or a rule asks for more than addresses."
-- next_hop = "Gateway, or the peer itself on the same link; empty likewise, and of own addresses."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket, for SQL of your own."
--
-- [params.order]
-- type = "VARCHAR"
-- default = "duration"
-- choices = ["duration", "bytes", "sent", "received", "retrans", "rtt", "queue", "recent"]
-- doc = "What comes first: duration, bytes (both ways), sent, received, retrans, rtt, queue (the larger of both) or recent (opened last)."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many connections are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "duration_us", type = "quantitative" }
-- y = { field = "local", sort = "-x" }
-- color = { field = "comm" }
WITH listed AS MATERIALIZED (
  SELECT
    c.*,
    row_number() OVER (
      ORDER BY
        CASE params.order
          WHEN 'bytes' THEN coalesce(c.bytes_sent, 0) + coalesce(c.bytes_received, 0)
          WHEN 'sent' THEN c.bytes_sent
          WHEN 'received' THEN c.bytes_received
          WHEN 'retrans' THEN c.total_retrans
          WHEN 'rtt' THEN c.rtt_max_us
          WHEN 'queue' THEN larger(c.recv_q_peak, c.send_q_peak)
          WHEN 'recent' THEN c.first_us
          ELSE c.last_us - c.first_us
        END DESC NULLS LAST,
        coalesce(c.bytes_sent, 0) + coalesce(c.bytes_received, 0) DESC, c.first_us, c.ns, c.cookie
    ) AS place
  FROM connections AS c CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
),
routed AS (
  SELECT
    l.place, r.is_sure, r.dev, r.gateway, unmapped(l.peer_addr) AS peer_addr,
    -- Of several next hops the kernel chooses by a hash.
    rank() OVER (PARTITION BY l.place ORDER BY r.rule_priority, r.prefix_len DESC, r.is_sure, r.priority NULLS FIRST) AS choice
  FROM (
    SELECT *, address_bits(unmapped(local_addr)) AS local_bits, address_bits(unmapped(peer_addr)) AS peer_bits FROM listed
  ) AS l
  JOIN fib AS r
    ON r.ns = l.ns AND r.since_us <= l.last_us AND coalesce(r.until_us, l.last_us + 1) > l.last_us
    AND in_prefix(l.local_bits, r.from_bits, r.from_len) AND in_prefix(l.peer_bits, r.to_bits, r.to_len)
    AND in_prefix(l.peer_bits, r.bits, r.prefix_len)
),
own AS (
  SELECT DISTINCT l.place
  FROM listed AS l JOIN addresses AS a ON a.ns = l.ns AND a.address = unmapped(l.peer_addr)
),
ways_out AS (
  SELECT place, the_only(dev) AS dev, the_only(coalesce(gateway, peer_addr)) AS next_hop
  FROM routed
  WHERE choice = 1
  GROUP BY place
  HAVING bool_and(is_sure)
)
SELECT
  comm, pid, role, local, peer, first_time, last_us - first_us AS duration_us,
  substr(
    concat(
      CASE WHEN opened = 'before' THEN ', open before' END,
      CASE WHEN samples = 0 THEN ', between two samples' END,
      since_opened('SYN-SENT', syn_sent_us, first_us),
      since_opened('SYN-RECV', syn_recv_us, first_us),
      since_opened('ESTAB', estab_us, first_us),
      since_opened('FIN-WAIT', fin_wait_us, first_us),
      since_opened('CLOSE-WAIT', close_wait_us, first_us),
      since_opened('CLOSING', closing_us, first_us),
      since_opened('LAST-ACK', last_ack_us, first_us),
      since_opened('TIME-WAIT', time_wait_us, first_us),
      CASE
        WHEN attempt = 'failed' THEN ', never got open'
        WHEN closed IS NULL THEN ', still open'
        WHEN closed = 'before' THEN ', closed before'
        WHEN closed_first = 'reset' THEN ', reset by this end or refused'
        WHEN closed_first = 'local' THEN ', closed first by this end'
        WHEN closed_first = 'peer' THEN ', closed first by the peer'
        WHEN closed_first = 'both' THEN ', closed by both at once'
        WHEN closed = 'inferred' THEN ', gone'
        ELSE ', closed'
      END
    ),
    3
  ) AS life,
  bytes_sent AS sent_bytes, bytes_received AS received_bytes, total_retrans AS retrans,
  round(100.0 * total_retrans / nullif(segs_out, 0), 2) AS retrans_percent,
  rtt_max_us AS rtt_us, recv_q_peak AS recv_q_peak_bytes, send_q_peak AS send_q_peak_bytes,
  CASE WHEN o.place IS NOT NULL OR is_loopback(peer_addr) THEN 'lo' ELSE w.dev END AS dev,
  CASE WHEN o.place IS NULL THEN w.next_hop END AS next_hop, netns, cookie
FROM listed AS l LEFT JOIN own AS o USING (place) LEFT JOIN ways_out AS w USING (place)
ORDER BY l.place
