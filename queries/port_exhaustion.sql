-- title = "Local ports left, per source address and service"
-- description = """
-- How near each source address is to the end of its local ports towards one service: the fullest
-- first. A connection needs a local port that its address does not use towards the same service; when
-- the range is used up, connect fails with EADDRNOTAVAIL. peak_percent of 80 or more is urgent, 100
-- means that connects failed. If most of the ports in use are in TIME-WAIT, connections are closed
-- too soon: pool them or use keep-alive (short_lived, time_wait). If not, they are open at once: look
-- for a leak in that process (process_sockets, connections), or spread over more addresses. The
-- forecast takes the growth at the end to go on; it is nothing where that has stopped or fallen below
-- half the pace of the last third of the samples, or is by TIME-WAIT and would take more than the
-- minute after which as many leave it as come; 0 where no port was left. What TIME-WAIT holds counts
-- as in use unless the kernel gives it to a new connection (reusable): then the room is larger by
-- that. Without the settings of the namespace the range, and so the room, is unknown. Sockets of
-- listening ports, and those bound outside the range, use none of it.
-- """
-- needs = ["tcp", "settings"]
--
-- [columns]
-- comm = "Process that was seen to connect there; * is several, nothing if none was found."
-- pid = "Its number; nothing if there are several."
-- local_addr = "Source address."
-- service = "Destination: address and port."
-- ports = "Ports of the range: ip_local_port_range less ip_local_reserved_ports."
-- peak = "Most of them in use in one sample."
-- peak_percent = "Share of peak in ports."
-- peak_time = "First sample with the peak, UTC."
-- time_wait_percent = "Share of TIME-WAIT in peak."
-- last = "In use in the last sample."
-- reusable = "Those of last in TIME-WAIT that the kernel lets a new connection take (tcp_tw_reuse: 1, or 2 on loopback)."
-- room = "Ports left at the last sample: ports less last, and reusable."
-- growth_per_s = "Growth of those in use and not reusable, in the last tenth of the time, three samples at least."
-- exhausted_in_s = "Seconds from the last sample to none left, if that goes on; nothing if it has stopped or fallen below half the pace of the last third of the time."
-- netns = "Inode number of the network namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many pairs of address and service are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "peak_percent", type = "quantitative" }
-- y = { field = "service", sort = "-x" }
-- color = { field = "comm" }
WITH reuses AS (
  SELECT netns, max_by(value, sample) AS value
  FROM settings
  WHERE name = 'net.ipv4.tcp_tw_reuse'
  GROUP BY netns
),
doors AS (
  SELECT netns, local_port, count(*) AS listening
  FROM raw.sockets
  WHERE state = 'LISTEN' AND netid = 'tcp'
  GROUP BY netns, local_port
  -- More than any host has: it tells DuckDB that this is the small side of the join below.
  LIMIT 100000
),
counts AS (
  SELECT
    s.netns,
    s.local_addr,
    s.peer_addr,
    s.peer_port,
    s.sample,
    min(s.sample_time) AS time,
    min(s.pid) AS least_pid,
    max(s.pid) AS most_pid,
    min(s.comm) AS least_comm,
    max(s.comm) AS most_comm,
    count(*) AS ports,
    count(
      CASE
        WHEN s.state = 'TIME-WAIT' OR (s.state = 'FIN-WAIT-2' AND s.timer = 'timewait') THEN 1
      END
    ) AS waiting
  FROM sockets AS s
  LEFT JOIN doors AS d
    ON d.netns = s.netns
    AND d.local_port = s.local_port
  LEFT JOIN port_ranges AS r
    ON r.netns = s.netns
  WHERE s.netid = 'tcp'
    AND s.state NOT IN ('LISTEN', 'UNCONN')
    AND s.peer_port > 0
    AND d.listening IS NULL
    AND (r.low IS NULL OR s.local_port BETWEEN r.low AND r.high)
  GROUP BY s.netns, s.local_addr, s.peer_addr, s.peer_port, s.sample
),
levels AS (
  -- IPv4 has the same ports, whether the socket is of IPv4 or of both families.
  SELECT
    netns,
    CASE WHEN local_addr LIKE '::ffff:%' THEN substr(local_addr, 8) ELSE local_addr END AS local_addr,
    CASE WHEN peer_addr LIKE '::ffff:%' THEN substr(peer_addr, 8) ELSE peer_addr END AS peer_addr,
    peer_port,
    sample,
    min(time) AS time,
    min(least_pid) AS least_pid,
    max(most_pid) AS most_pid,
    min(least_comm) AS least_comm,
    max(most_comm) AS most_comm,
    sum(ports) AS ports,
    sum(waiting) AS waiting
  FROM counts
  GROUP BY
    netns,
    CASE WHEN local_addr LIKE '::ffff:%' THEN substr(local_addr, 8) ELSE local_addr END,
    CASE WHEN peer_addr LIKE '::ffff:%' THEN substr(peer_addr, 8) ELSE peer_addr END,
    peer_port,
    sample
),
peaks AS (
  SELECT
    l.netns,
    l.local_addr,
    l.peer_addr,
    l.peer_port,
    min(r.ports) AS ports,
    CASE WHEN min(l.least_pid) = max(l.most_pid) THEN min(l.least_pid) END AS pid,
    CASE WHEN min(l.least_comm) < max(l.most_comm) THEN '*' ELSE min(l.least_comm) END AS comm,
    max(l.ports) AS peak,
    max_by(l.waiting, 1000000000 * l.ports - l.sample) AS waiting,
    max_by(l.time, 1000000000 * l.ports - l.sample) AS time,
    max(
      CASE
        WHEN n.value = '1' THEN 1
        WHEN n.value = '2' AND (
          l.local_addr LIKE '127.%' OR l.peer_addr LIKE '127.%'
          OR l.local_addr = '::1' OR l.peer_addr = '::1'
        ) THEN 1
        WHEN n.value IS NOT NULL THEN 0
      END
    ) AS reuse
  FROM levels AS l
  LEFT JOIN port_ranges AS r
    ON r.netns = l.netns
  LEFT JOIN reuses AS n
    ON n.netns = l.netns
  GROUP BY l.netns, l.local_addr, l.peer_addr, l.peer_port
),
fullest AS (
  SELECT *
  FROM (
    SELECT
      *,
      row_number() OVER (
        ORDER BY
          1.0 * peak / nullif(ports, 0) DESC NULLS LAST,
          peak DESC,
          netns,
          local_addr,
          peer_addr,
          peer_port
      ) AS place
    FROM peaks
  ) AS placed
  CROSS JOIN params
  WHERE params.top = 0 OR placed.place <= params.top
),
moments AS (
  SELECT netns, sample, min(t_us) AS t_us
  FROM samples
  WHERE step IN ('tcp', 'all')
  GROUP BY netns, sample
  HAVING min(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) = 1
  UNION ALL
  -- A file of sockets alone does not say what was read.
  SELECT netns, sample, min(t_us) AS t_us
  FROM sockets
  WHERE NOT EXISTS (SELECT 1 FROM samples)
  GROUP BY netns, sample
),
ends AS (
  SELECT
    netns,
    min(t_us) AS start_us,
    max(t_us) AS end_us,
    max(sample) AS last_sample,
    min(CASE WHEN place <= 3 THEN t_us END) AS third_last_us
  FROM (
    SELECT moments.*, row_number() OVER (PARTITION BY netns ORDER BY sample DESC) AS place
    FROM moments
  ) AS placed
  GROUP BY netns
),
trends AS (
  SELECT
    f.place,
    max(CASE WHEN m.sample = e.last_sample THEN coalesce(l.ports, 0) END) AS last,
    max(CASE WHEN m.sample = e.last_sample THEN coalesce(l.waiting, 0) END) AS waiting,
    max(
      CASE
        WHEN m.sample = e.last_sample
          THEN coalesce(l.ports - coalesce(f.reuse, 0) * l.waiting, 0)
      END
    ) AS kept,
    regr_slope(
      CASE
        WHEN m.t_us >= e.third_last_us OR m.t_us >= e.end_us - (e.end_us - e.start_us) / 10.0
          THEN coalesce(l.ports - coalesce(f.reuse, 0) * l.waiting, 0)
      END,
      (m.t_us - e.start_us) / 1000000.0
    ) AS slope,
    regr_slope(
      CASE
        WHEN m.t_us >= e.third_last_us OR m.t_us >= e.end_us - (e.end_us - e.start_us) / 3.0
          THEN coalesce(l.ports - coalesce(f.reuse, 0) * l.waiting, 0)
      END,
      (m.t_us - e.start_us) / 1000000.0
    ) AS former_slope
  FROM fullest AS f
  JOIN ends AS e
    ON e.netns = f.netns
  JOIN moments AS m
    ON m.netns = f.netns
  LEFT JOIN levels AS l
    ON l.netns = f.netns
    AND l.local_addr = f.local_addr
    AND l.peer_addr = f.peer_addr
    AND l.peer_port = f.peer_port
    AND l.sample = m.sample
  GROUP BY f.place
),
told AS (
  SELECT
    f.*,
    t.last,
    t.slope,
    t.former_slope,
    t.waiting AS last_waiting,
    t.kept AS kept,
    CASE WHEN f.ports < t.kept THEN 0 ELSE f.ports - t.kept END AS room
  FROM fullest AS f
  LEFT JOIN trends AS t
    ON t.place = f.place
)
SELECT
  told.comm AS comm,
  told.pid AS pid,
  told.local_addr AS local_addr,
  CASE
    WHEN told.peer_addr LIKE '%:%' THEN concat('[', told.peer_addr, ']:', told.peer_port)
    ELSE concat(told.peer_addr, ':', told.peer_port)
  END AS service,
  CAST(told.ports AS BIGINT) AS ports,
  CAST(told.peak AS BIGINT) AS peak,
  round(100.0 * told.peak / nullif(told.ports, 0), 1) AS peak_percent,
  told.time AS peak_time,
  round(100.0 * told.waiting / told.peak, 1) AS time_wait_percent,
  CAST(told.last AS BIGINT) AS last,
  CAST(told.reuse * told.last_waiting AS BIGINT) AS reusable,
  CAST(told.room AS BIGINT) AS room,
  round(told.slope, 2) AS growth_per_s,
  CASE
    WHEN told.room = 0 THEN 0.0
    -- After a minute as many leave TIME-WAIT as come.
    WHEN told.room > 60 * told.slope AND 2 * (told.kept - told.last + told.last_waiting) > told.kept
      THEN NULL
    WHEN told.slope > 0 AND 2 * told.slope >= told.former_slope THEN round(told.room / told.slope, 0)
  END AS exhausted_in_s,
  told.netns AS netns
FROM told
ORDER BY told.place
