-- title = "TIME-WAIT: who leaves it behind, and how near it is to a limit"
-- description = """
-- How many sockets in TIME-WAIT each process and service left, in equal slices of the time, the most
-- first; all is the whole namespace. TIME-WAIT stays for a minute at the end that closes first. If
-- that is the client, each holds one of its local ports towards that service: ports_percent near
-- 100 means that connect will fail, so pool connections or use keep-alive (short_lived,
-- port_exhaustion). If that is the server, no port is lost, only memory. An overflow is serious at
-- once: the table is full (tcp_max_tw_buckets), and the kernel drops TIME-WAIT before its time. A
-- number alone is no trouble. Orphans in FIN-WAIT-2 that the kernel keeps in the same table count
-- too. Rows have no process of their own: it is the one that held the socket last, else the only
-- one that was seen to use the same service, else unknown. A slice that never read the table has no
-- numbers. The kernel may reuse such ports towards the same service on loopback, or everywhere if
-- net.ipv4.tcp_tw_reuse is 1.
-- """
-- needs = ["tcp", "counters", "settings"]
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
-- x = { field = "time", type = "temporal" }
-- y = { field = "sockets", type = "quantitative" }
-- color = { field = "who" }
-- detail = { field = "peer" }
WITH doors AS (
  SELECT
    netns,
    local_port,
    CASE WHEN min(pid) = max(pid) THEN min(pid) END AS pid,
    CASE WHEN min(comm) = max(comm) THEN min(comm) END AS comm
  FROM raw.sockets
  WHERE state = 'LISTEN' AND netid = 'tcp'
  GROUP BY netns, local_port
),
waiting AS (
  SELECT
    w.netns,
    w.sample,
    CASE WHEN d.local_port IS NULL THEN 'client' ELSE 'server' END AS side,
    CASE WHEN w.local_addr LIKE '::ffff:%' THEN substr(w.local_addr, 8) ELSE w.local_addr END
      AS local_addr,
    CASE WHEN d.local_port IS NOT NULL THEN w.local_port END AS local_port,
    CASE WHEN w.peer_addr LIKE '::ffff:%' THEN substr(w.peer_addr, 8) ELSE w.peer_addr END
      AS peer_addr,
    CASE WHEN d.local_port IS NULL THEN w.peer_port END AS peer_port,
    CASE WHEN w.pid IS NULL THEN d.pid ELSE w.pid END AS pid,
    CASE WHEN w.pid IS NULL THEN d.comm ELSE w.comm END AS comm
  FROM sockets AS w
  LEFT JOIN doors AS d
    ON d.netns = w.netns
    AND d.local_port = w.local_port
  WHERE w.netid = 'tcp'
    AND (w.state = 'TIME-WAIT' OR (w.state = 'FIN-WAIT-2' AND w.timer = 'timewait'))
),
asked AS (
  SELECT DISTINCT netns, peer_addr, peer_port
  FROM waiting
  WHERE side = 'client' AND pid IS NULL
),
users AS (
  -- Who else uses the same service, if it is one process only.
  SELECT
    a.netns,
    a.peer_addr,
    a.peer_port,
    CASE WHEN min(s.pid) = max(s.pid) THEN min(s.pid) END AS pid,
    CASE WHEN min(s.comm) = max(s.comm) THEN min(s.comm) END AS comm
  FROM sockets AS s
  JOIN asked AS a
    ON a.netns = s.netns
    AND a.peer_port = s.peer_port
    AND a.peer_addr
      = CASE WHEN s.peer_addr LIKE '::ffff:%' THEN substr(s.peer_addr, 8) ELSE s.peer_addr END
  WHERE s.pid IS NOT NULL AND s.netid IN ('tcp', 'mptcp') AND s.state <> 'LISTEN'
  GROUP BY a.netns, a.peer_addr, a.peer_port
),
grouped AS (
  SELECT
    w.netns,
    w.sample,
    w.side,
    -- A server is known by its port, on whichever of its addresses it was met.
    CASE WHEN w.side = 'client' THEN w.local_addr ELSE CAST(w.local_port AS VARCHAR) END AS source,
    CASE
      WHEN w.side = 'server' THEN ''
      WHEN w.peer_addr LIKE '%:%' THEN concat('[', w.peer_addr, ']:', w.peer_port)
      ELSE concat(w.peer_addr, ':', w.peer_port)
    END AS service,
    CASE
      WHEN w.comm IS NULL AND u.comm IS NULL THEN 'unknown'
      WHEN w.pid IS NOT NULL THEN concat(w.comm, ' (', w.pid, ')')
      WHEN w.comm IS NOT NULL THEN w.comm
      WHEN u.pid IS NOT NULL THEN concat(u.comm, ' (', u.pid, ')')
      ELSE u.comm
    END AS who,
    w.local_addr,
    w.peer_addr
  FROM waiting AS w
  LEFT JOIN users AS u
    ON u.netns = w.netns
    AND u.peer_addr = w.peer_addr
    AND u.peer_port = w.peer_port
),
counts AS (
  SELECT
    netns,
    sample,
    who,
    side,
    source,
    service,
    min(local_addr) AS least_local,
    max(local_addr) AS most_local,
    min(peer_addr) AS least_peer,
    max(peer_addr) AS most_peer,
    count(*) AS sockets
  FROM grouped
  GROUP BY netns, sample, who, side, source, service
  UNION ALL
  SELECT
    netns,
    sample,
    'all' AS who,
    '' AS side,
    '' AS source,
    '' AS service,
    CAST(NULL AS VARCHAR) AS least_local,
    CAST(NULL AS VARCHAR) AS most_local,
    CAST(NULL AS VARCHAR) AS least_peer,
    CAST(NULL AS VARCHAR) AS most_peer,
    count(*) AS sockets
  FROM grouped
  GROUP BY netns, sample
),
series AS (
  SELECT
    netns,
    who,
    side,
    source,
    service,
    CASE
      WHEN side = 'client' THEN source
      WHEN side = '' THEN NULL
      WHEN min(least_local) < max(most_local) THEN concat('*:', source)
      WHEN min(least_local) LIKE '%:%' THEN concat('[', min(least_local), ']:', source)
      ELSE concat(min(least_local), ':', source)
    END AS local,
    CASE
      WHEN side = 'client' THEN service
      WHEN min(least_peer) < max(most_peer) THEN '*'
      ELSE min(least_peer)
    END AS peer,
    row_number() OVER (
      ORDER BY
        max(sockets) DESC,
        netns,
        CASE WHEN side = '' THEN 0 ELSE 1 END,
        who,
        side,
        source,
        service
    ) AS place
  FROM counts
  GROUP BY netns, who, side, source, service
),
moments AS (
  SELECT
    netns,
    sample,
    min(t_us) AS t_us,
    min(sample_time) AS time,
    max(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) AS seen
  FROM samples
  WHERE step IN ('tcp', 'all')
  GROUP BY netns, sample
  UNION ALL
  -- A file of sockets alone does not say what was read.
  SELECT netns, sample, min(t_us) AS t_us, min(sample_time) AS time, 1 AS seen
  FROM sockets
  WHERE NOT EXISTS (SELECT 1 FROM samples)
  GROUP BY netns, sample
),
slicing AS (
  SELECT
    span.start_us,
    CASE
      WHEN params.interval > 0 THEN CAST(params.interval * 1000000 AS BIGINT)
      ELSE CAST(floor((span.end_us - span.start_us) / 10.0) AS BIGINT) + 1
    END AS wide_us
  FROM (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM moments) AS span
  CROSS JOIN params
),
looks AS (
  SELECT
    m.netns,
    m.sample,
    m.time,
    m.seen,
    (m.t_us - s.start_us) - (m.t_us - s.start_us) % s.wide_us AS slice
  FROM moments AS m
  CROSS JOIN slicing AS s
),
starts AS (
  SELECT slice, min(time) AS time
  FROM looks
  GROUP BY slice
),
counted AS (
  SELECT
    series.place,
    looks.slice,
    max(CASE WHEN looks.seen = 1 THEN coalesce(counts.sockets, 0) END) AS sockets
  FROM series
  CROSS JOIN params
  JOIN looks
    ON looks.netns = series.netns
  LEFT JOIN counts
    ON counts.netns = series.netns
    AND counts.who = series.who
    AND counts.side = series.side
    AND counts.source = series.source
    AND counts.service = series.service
    AND counts.sample = looks.sample
  WHERE params.top = 0 OR series.place <= params.top
  GROUP BY series.place, looks.slice
),
newest AS (
  SELECT netns, name, max_by(value, sample) AS value
  FROM settings
  WHERE name IN ('net.ipv4.ip_local_port_range', 'net.ipv4.tcp_max_tw_buckets')
  GROUP BY netns, name
),
limits AS (
  SELECT
    n.netns,
    min(r.ports) AS ports,
    min(
      CASE WHEN n.name = 'net.ipv4.tcp_max_tw_buckets' THEN TRY_CAST(n.value AS BIGINT) END
    ) AS buckets
  FROM newest AS n
  LEFT JOIN port_ranges AS r
    ON r.netns = n.netns
  GROUP BY n.netns
),
readings AS (
  SELECT netns, sample, name, min_by(value, phase) AS value
  FROM counter_values
  WHERE name IN ('TCP.tw', 'TcpExt.TCPTimeWaitOverflow')
  GROUP BY netns, sample, name
),
kernel AS (
  SELECT
    looks.netns,
    looks.slice,
    max(CASE WHEN r.name = 'TCP.tw' THEN r.value END) AS sockets,
    CAST(sum(CASE WHEN r.growth >= 0 THEN r.growth END) AS BIGINT) AS overflows
  FROM (
    SELECT
      *,
      CASE
        WHEN name = 'TcpExt.TCPTimeWaitOverflow'
          THEN value - lag(value) OVER (PARTITION BY netns, name ORDER BY sample)
      END AS growth
    FROM readings
  ) AS r
  JOIN looks
    ON looks.netns = r.netns
    AND looks.sample = r.sample
  GROUP BY looks.netns, looks.slice
)
SELECT
  starts.time AS time,
  series.who AS who,
  nullif(series.side, '') AS side,
  series.local AS local,
  series.peer AS peer,
  CAST(c.sockets AS BIGINT) AS sockets,
  CASE
    WHEN series.side = 'client' THEN round(100.0 * c.sockets / nullif(limits.ports, 0), 1)
  END AS ports_percent,
  CASE WHEN series.side = '' THEN kernel.sockets END AS kernel,
  CASE
    WHEN series.side = ''
      THEN round(
        100.0 * CASE WHEN kernel.sockets > c.sockets THEN kernel.sockets ELSE c.sockets END
        / nullif(limits.buckets, 0),
        1
      )
  END AS buckets_percent,
  CASE WHEN series.side = '' THEN kernel.overflows END AS overflows,
  series.netns AS netns
FROM counted AS c
JOIN series
  ON series.place = c.place
JOIN starts
  ON starts.slice = c.slice
LEFT JOIN limits
  ON limits.netns = series.netns
LEFT JOIN kernel
  ON kernel.netns = series.netns
  AND kernel.slice = c.slice
ORDER BY series.place, c.slice
