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
-- listening ports, and those bound outside the range, use none of it. Where an address binds before it
-- connects, all its destinations share one range, and are one row with * as its service. So is all UDP
-- of a namespace, whatever its addresses.
-- """
-- needs = ["tcp", "settings"]
-- uses = ["netns_of", "port_claims", "slope_of", "tcp_reads", "the_only"]
-- ranks = [
--   "comm", "pid", "netid", "local_addr", "service", "peak_percent", "room", "ports", "exhausted_in_s", "last", "reusable",
--   "time_wait_percent", "peak", "peak_time",
-- ]
--
-- [columns]
-- comm = "Process that was seen to connect there; * is several, nothing if none was found."
-- pid = "Its number; nothing if there are several."
-- netid = "tcp or udp."
-- local_addr = "Source address; * is any."
-- service = "Destination: address and port; * is all of them together."
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
WITH used AS MATERIALIZED (
  SELECT * FROM port_claims
),
levels AS (
  SELECT
    ns, local_addr, peer_addr, peer_port, any_value(destination) AS destination, sample, most, min(sample_time) AS time,
    sum(ports) AS ports, sum(waiting) AS waiting, sum(reusable) AS reusable
  FROM used
  GROUP BY ns, local_addr, peer_addr, peer_port, sample, most
),
fullest AS (
  SELECT
    ns, local_addr, peer_addr, peer_port, any_value(destination) AS destination, most AS ports, max(ports) AS peak,
    max_by(waiting, 1000000000 * ports - sample) AS waiting, max_by(time, 1000000000 * ports - sample) AS time,
    row_number() OVER (
      ORDER BY 1.0 * max(ports) / nullif(most, 0) DESC NULLS LAST, max(ports) DESC, ns, local_addr, peer_addr, peer_port
    ) AS place
  FROM levels CROSS JOIN params
  GROUP BY ns, local_addr, peer_addr, peer_port, most, params.top
  QUALIFY params.top = 0 OR place <= params.top
),
holders AS (
  SELECT
    f.place, the_only(u.pid) AS pid, CASE WHEN min(u.comm) < max(u.comm) THEN '*' ELSE min(u.comm) END AS comm,
    max(u.reusable IS NOT NULL) AS reuse_known
  FROM fullest AS f JOIN used AS u USING (ns, local_addr, peer_addr, peer_port)
  GROUP BY f.place
),
moments AS (
  SELECT ns, sample, t_us, row_number() OVER (PARTITION BY ns ORDER BY sample DESC) AS place
  FROM tcp_reads
),
ends AS (
  SELECT
    ns, min(t_us) AS start_us, max(t_us) AS end_us, max(sample) AS last_sample,
    min(t_us) FILTER (WHERE place <= 3) AS third_last_us
  FROM moments
  GROUP BY ns
),
paces AS (
  SELECT
    f.place, m.sample = e.last_sample AS is_last, coalesce(l.ports, 0) AS ports, coalesce(l.waiting, 0) AS waiting,
    l.reusable, coalesce(l.ports - coalesce(l.reusable, 0), 0) AS kept, (m.t_us - e.start_us) / 1000000.0 AS second,
    m.t_us >= least(e.third_last_us, e.end_us - (e.end_us - e.start_us) / 10.0) AS is_recent,
    m.t_us >= least(e.third_last_us, e.end_us - (e.end_us - e.start_us) / 3.0) AS is_former
  FROM fullest AS f
  JOIN ends AS e USING (ns)
  JOIN moments AS m USING (ns)
  LEFT JOIN levels AS l
    ON l.ns = f.ns AND l.local_addr = f.local_addr AND l.peer_addr = f.peer_addr AND l.peer_port = f.peer_port
    AND l.sample = m.sample
),
told AS (
  SELECT
    f.*, h.pid, h.comm, h.reuse_known, t.* EXCLUDE (place), CASE WHEN f.ports < t.kept THEN 0 ELSE f.ports - t.kept END AS room
  FROM fullest AS f
  JOIN holders AS h USING (place)
  LEFT JOIN (
    SELECT
      place, max(ports) FILTER (WHERE is_last) AS last, max(waiting) FILTER (WHERE is_last) AS last_waiting,
      max(reusable) FILTER (WHERE is_last) AS reusable, max(kept) FILTER (WHERE is_last) AS kept,
      slope_of(CASE WHEN is_recent THEN kept END, second) AS slope,
      slope_of(CASE WHEN is_former THEN kept END, second) AS former_slope
    FROM paces
    GROUP BY place
  ) AS t USING (place)
)
SELECT
  comm, pid, CASE local_addr WHEN '*' THEN 'udp' ELSE 'tcp' END AS netid, local_addr, destination AS service, CAST(ports AS BIGINT) AS ports, CAST(peak AS BIGINT) AS peak,
  round(100.0 * peak / nullif(ports, 0), 1) AS peak_percent, time AS peak_time,
  round(100.0 * waiting / peak, 1) AS time_wait_percent, CAST(last AS BIGINT) AS last,
  CAST(CASE WHEN reuse_known THEN coalesce(reusable, 0) END AS BIGINT) AS reusable, CAST(room AS BIGINT) AS room,
  round(slope, 2) AS growth_per_s,
  CASE
    WHEN room = 0 THEN 0.0
    -- After a minute as many leave TIME-WAIT as come.
    WHEN room > 60 * slope AND 2 * (kept - last + last_waiting) > kept THEN NULL
    WHEN slope > 0 AND 2 * slope >= former_slope THEN round(room / slope, 0)
  END AS exhausted_in_s,
  netns_of(ns) AS netns
FROM told
ORDER BY place
