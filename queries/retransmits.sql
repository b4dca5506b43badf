-- title = "What had to be sent again"
-- description = """
-- Who lost packets, within the scope: those with most retransmission timeouts first, then those that
-- repeated most segments. A timeout silences a connection for 200 ms at least, twice as long each time
-- it comes again, while a fast retransmission costs one round trip. One peer bad and the others good:
-- look at the way to it, or at the peer; all bad: look at this host's link and its queues. spurious
-- near retransmitted: nothing was lost, the acknowledgements were late, and loss probes went out
-- before they came; see report rtt, and queue_growth for a peer that reads slowly. syn_repeats: a peer
-- that does not answer when a connection is opened, or drops it: its accept queue, a firewall, a dead
-- host. Below one percent is common on the internet, and unusual within a data centre. Counted is the
-- growth from the first sample of the scope to the last one, or to the announcement of the end;
-- connections that came in between count as a whole, if any sample or announcement tells of them.
-- No row: nothing was sent again, as far as known. The kernel does not tell what a connection had
-- repeated that reset itself between two samples.
-- """
-- needs = ["sockets", "tcp"]
--
-- [columns]
-- comm = "Name of the process; nothing by peer."
-- pid = "Process that held the sockets last; nothing by peer."
-- local = "Local address and port; by socket only."
-- peer = "Peer address, by socket with its port; nothing by process."
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
-- doc = "What a row is: socket, process or peer (its address). Any other word counts as socket."
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
WITH counted AS (
  SELECT
    *,
    -- A request socket has no tcp_info; that of the connection it becomes starts with its repeats.
    CASE WHEN state = 'SYN-RECV' THEN retrans ELSE total_retrans END AS retransmitted,
    CASE WHEN state IN ('SYN-SENT', 'SYN-RECV') THEN retrans END AS syn_repeats
  FROM (SELECT * FROM sockets UNION ALL SELECT * FROM baseline) AS seen
  WHERE netid = 'tcp' AND state NOT IN ('LISTEN', 'TIME-WAIT', 'UNCONN')
),
begun AS (
  SELECT netns, min(sample) AS sample
  FROM (
    SELECT netns, sample
    FROM samples
    WHERE step IN ('tcp', 'tcp6', 'all')
    GROUP BY netns, sample
    HAVING min(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) = 1
    UNION ALL
    -- A file of sockets alone does not say what was read.
    SELECT netns, min(sample) AS sample
    FROM sockets
    WHERE netid = 'tcp' AND NOT EXISTS (SELECT 1 FROM samples)
    GROUP BY netns
  ) AS whole
  GROUP BY netns
),
sampled AS (
  -- Counters only grow: their least value is the first one.
  SELECT
    netns,
    cookie,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    max_by(pid, CASE WHEN pid IS NOT NULL THEN sample END) AS pid,
    max_by(start_us, CASE WHEN pid IS NOT NULL THEN sample END) AS start_us,
    max_by(comm, CASE WHEN pid IS NOT NULL THEN sample END) AS comm,
    min(retransmitted) AS first_retransmitted,
    max(retransmitted) AS retransmitted,
    min(bytes_retrans) AS first_bytes_retrans,
    max(bytes_retrans) AS bytes_retrans,
    min(bytes_sent) AS first_bytes_sent,
    max(bytes_sent) AS bytes_sent,
    min(dsack_dups) AS first_dsack_dups,
    max(dsack_dups) AS dsack_dups,
    min(total_rto) AS first_total_rto,
    max(total_rto) AS total_rto,
    min(total_rto_time_ms) AS first_total_rto_time_ms,
    max(total_rto_time_ms) AS total_rto_time_ms,
    max(syn_repeats) AS syn_repeats,
    min(sample) AS first_sample
  FROM counted
  GROUP BY netns, cookie
),
ends AS (
  -- What reset itself has lost its totals.
  SELECT *
  FROM closes
  WHERE netid = 'tcp' AND connection AND peer_port <> 0
),
lives AS (
  SELECT
    coalesce(s.netns, e.netns) AS netns,
    coalesce(s.cookie, e.cookie) AS cookie,
    coalesce(s.local_addr, e.local_addr) AS local_addr,
    coalesce(s.local_port, e.local_port) AS local_port,
    coalesce(s.peer_addr, e.peer_addr) AS peer_addr,
    coalesce(s.peer_port, e.peer_port) AS peer_port,
    CASE WHEN s.pid IS NOT NULL THEN s.pid ELSE e.pid END AS pid,
    CASE WHEN s.pid IS NOT NULL THEN s.start_us ELSE e.start_us END AS start_us,
    CASE WHEN s.pid IS NOT NULL THEN s.comm ELSE e.comm END AS comm,
    coalesce(e.total_retrans, s.retransmitted) - coalesce(CASE WHEN old.sample IS NULL THEN s.first_retransmitted END, 0) AS retransmitted,
    coalesce(e.bytes_retrans, s.bytes_retrans) - coalesce(CASE WHEN old.sample IS NULL THEN s.first_bytes_retrans END, 0) AS bytes_retrans,
    coalesce(e.bytes_sent, s.bytes_sent) - coalesce(CASE WHEN old.sample IS NULL THEN s.first_bytes_sent END, 0) AS bytes_sent,
    coalesce(e.dsack_dups, s.dsack_dups) - coalesce(CASE WHEN old.sample IS NULL THEN s.first_dsack_dups END, 0) AS dsack_dups,
    coalesce(e.total_rto, s.total_rto) - coalesce(CASE WHEN old.sample IS NULL THEN s.first_total_rto END, 0) AS total_rto,
    coalesce(e.total_rto_time_ms, s.total_rto_time_ms) - coalesce(CASE WHEN old.sample IS NULL THEN s.first_total_rto_time_ms END, 0) AS total_rto_time_ms,
    s.syn_repeats
  FROM sampled AS s
  FULL JOIN ends AS e
    ON e.netns = s.netns
    AND e.cookie = s.cookie
  -- One that came after the first whole sample; else its first counts are older than the scope.
  LEFT JOIN begun AS old
    ON old.netns = s.netns
    AND old.sample < s.first_sample
  -- Of one that only samples before the scope showed it is not known what it had then.
  WHERE s.cookie IS NOT NULL OR NOT coalesce(e.sampled, false)
),
keyed AS (
  SELECT
    lives.*,
    params.top,
    CASE WHEN params.by IN ('process', 'peer') THEN NULL ELSE lives.cookie END AS row_cookie,
    CASE WHEN params.by = 'peer' THEN NULL ELSE lives.pid END AS row_pid,
    CASE WHEN params.by = 'peer' THEN NULL ELSE lives.start_us END AS row_start_us,
    CASE WHEN params.by = 'peer' THEN NULL ELSE lives.comm END AS row_comm,
    CASE WHEN params.by IN ('process', 'peer') THEN NULL ELSE lives.local_addr END AS row_local_addr,
    CASE WHEN params.by IN ('process', 'peer') THEN NULL ELSE lives.local_port END AS row_local_port,
    CASE WHEN params.by = 'process' THEN NULL ELSE lives.peer_addr END AS row_peer_addr,
    CASE WHEN params.by IN ('process', 'peer') THEN NULL ELSE lives.peer_port END AS row_peer_port
  FROM lives
  CROSS JOIN params
),
ranked AS (
  SELECT
    netns,
    top,
    row_cookie,
    row_pid,
    row_comm,
    row_local_addr,
    row_local_port,
    row_peer_addr,
    row_peer_port,
    count(*) AS connections,
    count(CASE WHEN retransmitted > 0 OR syn_repeats > 0 THEN 1 END) AS affected,
    sum(total_rto) AS timeouts,
    sum(total_rto_time_ms) AS timeout_ms,
    sum(retransmitted) AS retransmitted,
    sum(bytes_retrans) AS bytes_retrans,
    sum(bytes_sent) AS bytes_sent,
    sum(dsack_dups) AS spurious,
    sum(syn_repeats) AS syn_repeats,
    row_number() OVER (
      ORDER BY coalesce(sum(total_rto), 0) DESC, coalesce(sum(retransmitted), 0) DESC, netns,
        row_cookie NULLS LAST, row_pid NULLS LAST, row_start_us NULLS LAST, row_comm NULLS LAST,
        row_peer_addr NULLS LAST
    ) AS place
  FROM keyed
  GROUP BY netns, top, row_cookie, row_pid, row_start_us, row_comm, row_local_addr, row_local_port,
    row_peer_addr, row_peer_port
  HAVING count(CASE WHEN retransmitted > 0 OR syn_repeats > 0 THEN 1 END) > 0
)
SELECT
  row_comm AS comm,
  row_pid AS pid,
  CASE
    WHEN row_local_addr LIKE '%:%' THEN concat('[', row_local_addr, ']:', CAST(row_local_port AS VARCHAR))
    WHEN row_local_addr IS NOT NULL THEN concat(row_local_addr, ':', CAST(row_local_port AS VARCHAR))
  END AS local,
  CASE
    WHEN row_peer_port IS NULL THEN row_peer_addr
    WHEN row_peer_addr LIKE '%:%' THEN concat('[', row_peer_addr, ']:', CAST(row_peer_port AS VARCHAR))
    ELSE concat(row_peer_addr, ':', CAST(row_peer_port AS VARCHAR))
  END AS peer,
  connections,
  affected,
  CAST(timeouts AS BIGINT) AS timeouts,
  round(timeout_ms / 1000.0, 1) AS timeout_s,
  CAST(retransmitted AS BIGINT) AS retransmitted,
  CAST(bytes_retrans AS BIGINT) AS retrans_bytes,
  CAST(bytes_sent AS BIGINT) AS sent_bytes,
  round(100.0 * bytes_retrans / nullif(bytes_sent, 0), 2) AS retrans_percent,
  CAST(spurious AS BIGINT) AS spurious,
  CAST(syn_repeats AS BIGINT) AS syn_repeats,
  netns,
  row_cookie AS cookie
FROM ranked
WHERE top = 0 OR place <= top
ORDER BY place
