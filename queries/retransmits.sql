-- title = "Retransmissions"
-- description = """
-- Who lost packets, within the scope: those with most retransmission timeouts first, then those that
-- repeated most segments. A timeout silences a connection for 200 ms at least, twice as long each
-- time it comes again, while a fast retransmission costs one round trip. One peer bad and the others
-- good: look at the way to it, or at the peer; all bad: look at this host's link and its queues.
-- spurious close to retransmitted: nothing was lost, the acknowledgements were late, and loss probes
-- went out before they came; see report rtt, and queue_growth for a peer that reads slowly.
-- syn_repeats: a peer that does not answer when a connection is opened, or drops it: its accept
-- queue, a firewall, a dead host. Below one percent is common on the internet, and unusual within a
-- data centre. What counts is the growth from the first sample of the scope to the last one, or to
-- the announcement of the end; connections that came in between count as a whole, if any sample or
-- announcement shows them. No row: nothing was sent again, as far as is known. Of a connection that
-- reset itself between two samples the kernel does not say what it had sent again.
-- """
-- needs = ["sockets", "tcp"]
-- uses = ["endpoint", "losses", "netns_of"]
-- ranks = [
--   "comm", "pid", "local", "peer", "retrans_percent", "timeouts", "retransmitted", "syn_repeats", "timeout_s",
--   "connections", "affected",
-- ]
--
-- [columns]
-- comm = "Name of the process; empty by peer."
-- pid = "Process that held the sockets last; empty by peer."
-- local = "Local address and port; by socket only."
-- peer = "Peer address, by socket with its port; empty by process."
-- connections = "TCP connections there were."
-- affected = "Those that sent something again."
-- timeouts = "Retransmission timeouts, those of a SYN included; nothing before Linux 6.7."
-- timeout_s = "Seconds spent to recover from timeouts."
-- retransmitted = "Segments sent again, SYNs included."
-- retrans_bytes = "Bytes sent again."
-- sent_bytes = "Bytes sent, these included."
-- retrans_percent = "Share of bytes sent again in bytes sent."
-- spurious = "Segments that the peer reported to have had already."
-- syn_repeats = "Times that a SYN, or the answer to one, was repeated, as far as samples show."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot; by socket only."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "socket"
-- choices = ["socket", "process", "peer"]
-- doc = "What a row is: socket, process or peer (its address)."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "retransmitted", type = "quantitative" }
-- y = { field = "peer", sort = "-x" }
WITH keyed AS (
  SELECT
    l.*, params.top,
    CASE WHEN params.by = 'socket' THEN l.cookie END AS row_cookie,
    CASE WHEN params.by <> 'peer' THEN l.pid END AS row_pid,
    CASE WHEN params.by <> 'peer' THEN l.start_us END AS row_start_us,
    CASE WHEN params.by <> 'peer' THEN l.comm END AS row_comm,
    CASE WHEN params.by = 'socket' THEN l.local END AS row_local,
    CASE WHEN params.by <> 'process' THEN l.peer_addr END AS row_peer_addr,
    CASE WHEN params.by = 'socket' THEN l.peer_port END AS row_peer_port
  FROM losses AS l CROSS JOIN params
),
ranked AS (
  SELECT
    ns, top, row_cookie, row_pid, row_comm, row_local, row_peer_addr, row_peer_port,
    count(*) AS connections,
    count(*) FILTER (WHERE retransmitted > 0 OR syn_repeats > 0) AS affected,
    sum(total_rto) AS timeouts, sum(total_rto_time_ms) AS timeout_ms, sum(retransmitted) AS retransmitted,
    sum(bytes_retrans) AS bytes_retrans, sum(bytes_sent) AS bytes_sent, sum(dsack_dups) AS spurious,
    sum(syn_repeats) AS syn_repeats,
    row_number() OVER (
      ORDER BY coalesce(sum(total_rto), 0) DESC, coalesce(sum(retransmitted), 0) DESC, ns,
        row_cookie NULLS LAST, row_pid NULLS LAST, row_start_us NULLS LAST, row_comm NULLS LAST, row_peer_addr NULLS LAST
    ) AS place
  FROM keyed
  GROUP BY ns, top, row_cookie, row_pid, row_start_us, row_comm, row_local, row_peer_addr, row_peer_port
  HAVING affected > 0
  QUALIFY top = 0 OR place <= top
)
SELECT
  row_comm AS comm, row_pid AS pid, row_local AS local, endpoint(row_peer_addr, row_peer_port) AS peer, connections, affected,
  CAST(timeouts AS BIGINT) AS timeouts, round(timeout_ms / 1000.0, 1) AS timeout_s,
  CAST(retransmitted AS BIGINT) AS retransmitted, CAST(bytes_retrans AS BIGINT) AS retrans_bytes,
  CAST(bytes_sent AS BIGINT) AS sent_bytes, round(100.0 * bytes_retrans / nullif(bytes_sent, 0), 2) AS retrans_percent,
  CAST(spurious AS BIGINT) AS spurious, CAST(syn_repeats AS BIGINT) AS syn_repeats, netns_of(ns) AS netns, row_cookie AS cookie
FROM ranked
ORDER BY place
