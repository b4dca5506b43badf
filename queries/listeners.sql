-- title = "How a port's connections spread over sockets and processes"
-- description = """
-- Who accepts what comes to a port: one line for each process that listens there or holds connections
-- from there, the ports with most connections first. With SO_REUSEPORT each worker has a socket of its
-- own, and the kernel spreads connections over these by a hash of the addresses: few clients make it
-- uneven, and a worker that is slow fills its own queue and drops while others are idle. Where workers
-- share one socket (holders), whoever is first accepts. Share far from an even one, with a queue
-- or drops at one process only, is an uneven spread. Connections opened while this was recorded are
-- counted. Of those that ended between two samples no process is known where there are several: they
-- are in a line without one. How long queues are is in listen_queues.
-- """
-- needs = ["tcp", "owners"]
-- uses = ["connections", "endpoint", "listeners", "netns_of", "unmapped"]
-- ranks = [
--   "local", "comm", "pid", "accepted", "share_percent", "accepted_per_s", "sockets", "of_sockets", "queue_peak", "drops", "holders", "netns",
-- ]
--
-- [columns]
-- local = "Address and port that is listened on."
-- netid = "Kind of socket, as ss prints it."
-- comm = "Name of the process."
-- pid = "Its number."
-- sockets = "Listening sockets there that it was seen to hold; empty if it has none of its own."
-- of_sockets = "Listening sockets there of all processes, those of a SO_REUSEPORT group."
-- holders = "Most processes that held one of its sockets at once."
-- accepted = "Connections that were opened in this time and that it held."
-- share_percent = "Share of them in those of the port."
-- accepted_per_s = "The same for a second of the time in which the port was listened on."
-- open = "Those of them that are still open."
-- queue_peak = "Most connections that waited in one of its sockets in a sample."
-- queue_avg = "Mean of the samples, of its sockets together."
-- drops = "Connections dropped at its sockets in this time."
-- netns = "Inode number of the network namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many lines are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "accepted", type = "quantitative" }
-- y = { field = "local", sort = "-x" }
-- color = { field = "comm" }
WITH held AS MATERIALIZED (
  SELECT
    ns, netid, family, local_addr, local_port, pid, start_us, max(comm) AS comm, count(*) AS sockets, max(holders) AS holders,
    max(queue_peak) AS queue_peak, sum(queue_avg) AS queue_avg, CAST(sum(drops) AS BIGINT) AS drops, min(first_us) AS first_us,
    max(last_us) AS last_us
  FROM listeners
  WHERE netid IN ('tcp', 'sctp', 'dccp')
  GROUP BY ns, netid, family, local_addr, local_port, pid, start_us
),
ports AS (
  SELECT ns, netid, family, local_addr, local_port, CAST(sum(sockets) AS BIGINT) AS of_sockets, max(last_us) - min(first_us) AS lasted_us,
    count(DISTINCT pid) = 1 AND coalesce(max(holders), 1) = 1 AS is_one
  FROM held
  GROUP BY ns, netid, family, local_addr, local_port
),
opened AS (
  SELECT
    ns, netid, unmapped(local_addr) AS to_addr, local_port, pid, start_us, max(comm) AS comm, count(*) AS accepted,
    count(*) FILTER (WHERE closed IS NULL) AS still_open, coalesce(owner_by, '') = 'listener' AS guessed
  FROM connections
  -- What waits to be accepted is told as of the listener.
  WHERE role = 'server' AND opened = 'during' AND attempt IS NULL AND (closed IS NOT NULL OR coalesce(owner_by, '') <> 'listener')
  GROUP BY ns, netid, unmapped(local_addr), local_port, pid, start_us, guessed
),
through AS (
  SELECT
    o.* EXCLUDE (pid, start_us, comm), d.family, d.local_addr, NOT o.guessed OR d.is_one AS is_known,
    CASE WHEN is_known THEN o.pid END AS pid, CASE WHEN is_known THEN o.start_us END AS start_us, CASE WHEN is_known THEN o.comm END AS comm
  FROM opened AS o
  JOIN ports AS d
    ON d.ns = o.ns AND d.netid = o.netid AND d.local_port = o.local_port AND unmapped(d.local_addr) IN (o.to_addr, '0.0.0.0', '::', '*')
  QUALIFY row_number() OVER (
    PARTITION BY o.ns, o.netid, o.to_addr, o.local_port, o.pid, o.start_us, o.guessed
    ORDER BY unmapped(d.local_addr) = o.to_addr DESC, (d.family = 'inet') = (o.to_addr NOT LIKE '%:%') DESC, d.local_addr
  ) = 1
),
accepting AS (
  SELECT
    ns, netid, family, local_addr, local_port, pid, start_us, max(comm) AS comm, CAST(sum(accepted) AS BIGINT) AS accepted,
    CAST(sum(still_open) AS BIGINT) AS still_open
  FROM through
  GROUP BY ns, netid, family, local_addr, local_port, pid, start_us
),
parts AS (
  SELECT
    coalesce(h.ns, a.ns) AS ns, coalesce(h.netid, a.netid) AS netid, coalesce(h.family, a.family) AS family,
    coalesce(h.local_addr, a.local_addr) AS local_addr, coalesce(h.local_port, a.local_port) AS local_port,
    coalesce(h.pid, a.pid) AS pid, coalesce(h.comm, a.comm) AS comm, h.sockets, h.holders, h.queue_peak, h.queue_avg, h.drops,
    coalesce(a.accepted, 0) AS accepted, coalesce(a.still_open, 0) AS still_open
  FROM held AS h
  FULL JOIN accepting AS a
    ON a.ns = h.ns AND a.netid = h.netid AND a.family = h.family AND a.local_addr = h.local_addr AND a.local_port = h.local_port
    AND a.pid IS NOT DISTINCT FROM h.pid AND a.start_us IS NOT DISTINCT FROM h.start_us
),
summed AS (
  SELECT p.*, d.of_sockets, d.lasted_us, sum(p.accepted) OVER door AS of_accepted, max(p.drops) OVER door AS of_drops
  FROM parts AS p JOIN ports AS d USING (ns, netid, family, local_addr, local_port)
  WINDOW door AS (PARTITION BY p.ns, p.netid, p.family, p.local_addr, p.local_port)
),
ranked AS (
  SELECT
    *,
    row_number() OVER (
      ORDER BY
        of_accepted DESC, of_drops DESC NULLS LAST, ns, local_port, local_addr, netid, family, accepted DESC, sockets DESC NULLS LAST, pid
    ) AS place
  FROM summed
)
SELECT
  endpoint(local_addr, local_port) AS local, netid, comm, pid, sockets, of_sockets, holders, accepted,
  round(100.0 * accepted / nullif(of_accepted, 0), 1) AS share_percent, round(1000000.0 * accepted / nullif(lasted_us, 0), 2) AS accepted_per_s,
  still_open AS open, queue_peak, round(queue_avg, 1) AS queue_avg, drops, netns_of(ns) AS netns
FROM ranked CROSS JOIN params
WHERE params.top = 0 OR place <= params.top
ORDER BY place
