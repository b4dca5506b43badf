-- title = "TIME-WAIT: who leaves it behind, and how near it is to a limit"
-- description = """
-- How many sockets in TIME-WAIT each process and service left, in equal slices of the time, the most
-- first; all is the whole namespace. TIME-WAIT stays for a minute at the end that closes first. If
-- that is the client, each holds one of its local ports towards that service: ports_percent near 100
-- means that connect will fail, so pool connections or use keep-alive (short_lived,
-- port_exhaustion). If that is the server, no port is lost, only memory. An overflow is always
-- serious: the table is full (tcp_max_tw_buckets), and the kernel drops TIME-WAIT before its time. A
-- high number alone is no problem. Orphans in FIN-WAIT-2 that the kernel keeps in the same table
-- count too. A socket in TIME-WAIT has no process: shown is the one that held the socket last, else
-- the only one that was seen to use the same service, else unknown. A slice that never read the
-- table has no numbers. The kernel may reuse such ports towards the same service on loopback, or
-- everywhere if net.ipv4.tcp_tw_reuse is 1.
-- """
-- needs = ["tcp", "counters", "settings"]
-- uses = [
--   "counter_steps", "counter_values", "doors", "endpoint", "larger", "netns_of", "port_ranges",
--   "process", "slice_of", "slice_width", "table_reads", "the_only", "tw_buckets", "unmapped",
-- ]
-- ranks = [
--   "time", "who", "side", "local", "peer", "sockets", "ports_percent", "buckets_percent", "overflows", "kernel",
-- ]
--
-- [columns]
-- time = "Begin of the slice: its first sample, UTC."
-- who = "all, or the process that closed first."
-- side = "client: it had connected; server: it had accepted."
-- local = "Its address, with the port if it is the server; * if it has several."
-- peer = "Address of the other end, with the port if that is the server; * if there are several."
-- sockets = "Most sockets in TIME-WAIT in one sample of the slice."
-- ports_percent = "Share of them in the local ports that this address may use towards that service; of clients only."
-- kernel = "TIME-WAIT by the kernel's own count (sockstat), the most in the slice; only all has it."
-- buckets_percent = "Share of the larger of both in tcp_max_tw_buckets; only all has it."
-- overflows = "Growth of TCPTimeWaitOverflow: closed without TIME-WAIT, as the table was full; only all has it."
-- netns = "Inode number of the network namespace."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice; 0 makes ten slices of the whole time."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many series are listed; 0 lists every one."
--
-- [chart]
-- mark = "line"
-- x = { field = "time", type = "temporal", bin = "binned" }
-- y = { field = "sockets", type = "quantitative" }
-- color = { field = "who" }
-- detail = { field = "peer" }
WITH waiting AS (
  SELECT
    w.ns, w.sample, d.local_port IS NULL AS is_client,
    unmapped(w.local_addr) AS local_addr, w.local_port, unmapped(w.peer_addr) AS peer_addr, w.peer_port,
    CASE WHEN w.pid IS NULL THEN d.pid ELSE w.pid END AS pid,
    CASE WHEN w.pid IS NULL THEN d.comm ELSE w.comm END AS comm
  FROM sockets AS w LEFT JOIN doors AS d ON d.ns = w.ns AND d.local_port = w.local_port
  WHERE w.netid = 'tcp' AND (w.state = 'TIME-WAIT' OR (w.state = 'FIN-WAIT-2' AND w.timer = 'timewait'))
),
users AS (
  -- Who else uses the same service, if it is one process only.
  SELECT a.ns, a.peer_addr, a.peer_port, the_only(s.pid) AS pid, the_only(s.comm) AS comm
  FROM sockets AS s
  JOIN (SELECT DISTINCT ns, peer_addr, peer_port FROM waiting WHERE is_client AND pid IS NULL) AS a
    ON a.ns = s.ns AND a.peer_port = s.peer_port AND a.peer_addr = unmapped(s.peer_addr)
  WHERE s.pid IS NOT NULL AND s.netid IN ('tcp', 'mptcp') AND s.state <> 'LISTEN'
  GROUP BY a.ns, a.peer_addr, a.peer_port
),
grouped AS (
  SELECT
    w.ns, w.sample, CASE WHEN w.is_client THEN 'client' ELSE 'server' END AS side,
    -- A server is known by its port, on whichever of its addresses it was met.
    CASE WHEN w.is_client THEN w.local_addr ELSE CAST(w.local_port AS VARCHAR) END AS source,
    CASE WHEN w.is_client THEN endpoint(w.peer_addr, w.peer_port) ELSE '' END AS service,
    coalesce(CASE WHEN w.comm IS NULL THEN process(u.comm, u.pid) ELSE process(w.comm, w.pid) END, 'unknown') AS who,
    w.local_addr, w.peer_addr
  FROM waiting AS w
  LEFT JOIN users AS u ON w.is_client AND u.ns = w.ns AND u.peer_addr = w.peer_addr AND u.peer_port = w.peer_port
),
counts AS (
  SELECT
    ns, sample, who, side, source, service,
    min(local_addr) AS least_local, max(local_addr) AS most_local,
    min(peer_addr) AS least_peer, max(peer_addr) AS most_peer, count(*) AS sockets
  FROM grouped
  GROUP BY ns, sample, who, side, source, service
  UNION ALL BY NAME
  SELECT ns, sample, 'all' AS who, '' AS side, '' AS source, '' AS service, count(*) AS sockets
  FROM grouped
  GROUP BY ns, sample
),
series AS (
  SELECT
    ns, who, side, source, service,
    CASE
      WHEN side = 'client' THEN source
      WHEN side = 'server' THEN endpoint(CASE WHEN min(least_local) < max(most_local) THEN '*' ELSE min(least_local) END, source)
    END AS local,
    CASE
      WHEN side = 'client' THEN service
      WHEN min(least_peer) < max(most_peer) THEN '*'
      ELSE min(least_peer)
    END AS peer,
    row_number() OVER (ORDER BY max(sockets) DESC, ns, side <> '', who, side, source, service) AS place
  FROM counts CROSS JOIN params
  GROUP BY ns, who, side, source, service, params.top
  QUALIFY params.top = 0 OR place <= params.top
),
looks AS (
  SELECT
    m.ns, m.sample, m.sample_time AS time, m.whole AS seen,
    slice_of(m.t_us, span.start_us, slice_width(span.start_us, span.end_us, params.interval)) AS slice
  FROM table_reads AS m
  CROSS JOIN (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM table_reads WHERE kind = 'tcp') AS span
  CROSS JOIN params
  WHERE m.kind = 'tcp'
),
starts AS (
  SELECT slice, min(time) AS time
  FROM looks
  GROUP BY slice
),
counted AS (
  SELECT s.place, looks.slice, max(CASE WHEN looks.seen THEN coalesce(c.sockets, 0) END) AS sockets
  FROM series AS s
  JOIN looks USING (ns)
  LEFT JOIN counts AS c
    ON c.ns = s.ns AND c.who = s.who AND c.side = s.side AND c.source = s.source AND c.service = s.service
    AND c.sample = looks.sample
  GROUP BY s.place, looks.slice
),
kernel AS (
  SELECT ns, looks.slice, max(k.sockets) AS sockets, CAST(sum(k.overflows) AS BIGINT) AS overflows
  FROM (
    SELECT ns, sample, min_by(value, phase) AS sockets, NULL AS overflows
    FROM counter_values WHERE name = 'TCP.tw' GROUP BY ns, sample
    UNION ALL
    SELECT ns, sample, NULL AS sockets, 0 AS overflows
    FROM counter_values WHERE name = 'TcpExt.TCPTimeWaitOverflow'
    QUALIFY sample > min(sample) OVER (PARTITION BY ns)
    UNION ALL
    SELECT ns, sample, NULL AS sockets, growth AS overflows
    FROM counter_steps WHERE name = 'TcpExt.TCPTimeWaitOverflow' AND growth > 0
  ) AS k
  JOIN looks USING (ns, sample)
  GROUP BY ns, looks.slice
)
SELECT
  starts.time, s.who, nullif(s.side, '') AS side, s.local, s.peer, CAST(c.sockets AS BIGINT) AS sockets,
  CASE WHEN s.side = 'client' THEN round(100.0 * c.sockets / nullif(r.ports, 0), 1) END AS ports_percent,
  CASE WHEN s.side = '' THEN kernel.sockets END AS kernel,
  CASE WHEN s.side = '' THEN round(100.0 * larger(kernel.sockets, c.sockets) / nullif(b.most, 0), 1) END AS buckets_percent,
  CASE WHEN s.side = '' THEN kernel.overflows END AS overflows, netns_of(s.ns) AS netns
FROM counted AS c
JOIN series AS s USING (place)
JOIN starts USING (slice)
LEFT JOIN port_ranges AS r ON r.ns = s.ns
LEFT JOIN tw_buckets AS b ON b.ns = s.ns
LEFT JOIN kernel ON kernel.ns = s.ns AND kernel.slice = c.slice
ORDER BY place, slice
