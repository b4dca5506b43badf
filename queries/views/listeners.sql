-- title = "Listeners and their accept queues"
-- description = """
-- One row per listening socket: TCP, MPTCP and SCTP ports, unix sockets. The accept queue is full,
-- and the kernel drops who comes, when more connections wait than the backlog says.
-- """
-- uses = ["accept_waits", "counter_growth", "endpoint", "grown", "history", "netns_of", "newborn", "who"]
--
-- [columns]
-- host = "Host that was recorded."
-- boot = "Boot of that host."
-- ns = "Network namespace of one boot of one host, the key together with cookie."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
-- netid = "Kind of socket, as ss prints it."
-- family = "Address family: inet, inet6, unix …"
-- local_addr = "Local address; of a unix socket its name."
-- local_port = "Local port; nothing where there are none."
-- local = "Address and port as one text; of a unix socket its name."
-- pid = "Process that holds it, the last one known."
-- start_us = "Start of that process after boot."
-- comm = "Name of that process."
-- who = "Name and number of that process."
-- holders = "Most processes that held it at once, as workers that were forked from one do; nothing if that is not known."
-- user = "Name of the socket's user."
-- first_us = "First sample that showed it, in microseconds UTC."
-- last_us = "Last sample that showed it."
-- first_time = "The same as a time."
-- last_time = "The same as a time."
-- samples = "Samples that showed it."
-- backlog = "Connections that may wait, in the last sample."
-- backlog_max = "Largest backlog in a sample."
-- queue_avg = "Connections that waited to be accepted, mean of its samples."
-- queue_peak = "Most that waited in a sample."
-- queue_last = "Those that waited in the last sample."
-- fill = "Largest share of the backlog that waited in a sample; above 1 is full."
-- full_samples = "Samples in which more waited than the backlog says."
-- full_us = "Time between samples in a row that found it so, in microseconds."
-- full_first_us = "First sample that found it full."
-- full_last_us = "Last sample that found it full."
-- full_since = "The first one as a time."
-- full_until = "The last one as a time."
-- wait_us = "Longest that the first in its queue had waited to be accepted in a sample; of a unix socket as stood_us. Nothing if nobody waited, or it is not known."
-- stood_us = "Longest run of samples in which someone waited and nothing was accepted."
-- gave_up = "Most of those waiting in a sample that their client had closed again; nothing for unix."
-- wait_since = "When that first one began to wait."
-- wait_until = "Last sample that showed it waiting."
-- drops_first = "Connections it had dropped before; 0 if it came while it was recorded."
-- drops_last = "Connections it had dropped by the last sample."
-- drops = "Connections it dropped in this time; never more than its namespace (TcpExt.ListenDrops), as its own count has other packets too. Nothing if the kernel did not tell."
-- drops_since = "First sample that saw new drops."
-- drops_until = "Last sample that saw new drops."
WITH looks AS (
  SELECT
    l.*,
    l.recv_q > l.send_q AS is_full,
    CASE
      WHEN l.recv_q > l.send_q AND lag(l.recv_q) OVER life > lag(l.send_q) OVER life THEN l.t_us - lag(l.t_us) OVER life
      ELSE 0
    END AS full_us,
    CASE
      WHEN lag(l.sample) OVER life IS NOT NULL THEN lag(l.drops) OVER life
      WHEN n.cookie IS NOT NULL THEN 0
      ELSE l.drops
    END AS former_drops
  FROM history AS l LEFT JOIN newborn AS n ON n.kind = 'tcp' AND n.ns = l.ns AND n.cookie = l.cookie
  WHERE l.state = 'LISTEN'
  WINDOW life AS (PARTITION BY l.ns, l.cookie ORDER BY l.sample)
),
summed AS (
  SELECT
    any_value(host) AS host, any_value(boot) AS boot, ns, cookie, netid, any_value(family) AS family,
    any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm, max(holders) AS holders, any_value(user) AS user,
    min(t_us) AS first_us, max(t_us) AS last_us, count(*) AS samples,
    max_by(send_q, sample) AS backlog, max(send_q) AS backlog_max,
    avg(recv_q) AS queue_avg, max(recv_q) AS queue_peak, max_by(recv_q, sample) AS queue_last,
    max(1.0 * recv_q / nullif(send_q, 0)) AS fill,
    count(*) FILTER (WHERE is_full) AS full_samples, CAST(sum(full_us) AS BIGINT) AS full_us,
    min(t_us) FILTER (WHERE is_full) AS full_first_us, max(t_us) FILTER (WHERE is_full) AS full_last_us,
    min(sample_time) FILTER (WHERE is_full) AS full_since, max(sample_time) FILTER (WHERE is_full) AS full_until,
    min_by(former_drops, sample) AS drops_first, max_by(drops, sample) AS drops_last,
    CAST(sum(coalesce(grown(drops, former_drops), 0)) FILTER (WHERE drops IS NOT NULL AND former_drops IS NOT NULL) AS BIGINT)
      AS dropped,
    min(sample_time) FILTER (WHERE drops > former_drops) AS drops_since,
    max(sample_time) FILTER (WHERE drops > former_drops) AS drops_until
  FROM looks
  WHERE wanted
  GROUP BY ns, cookie, netid
)
SELECT
  l.host, l.boot, l.ns, netns_of(l.ns) AS netns, l.cookie, l.netid, l.family, l.local_addr, l.local_port,
  endpoint(l.local_addr, l.local_port) AS local, l.pid, l.start_us, l.comm, who(l.comm, l.pid) AS who, l.holders, l.user,
  l.first_us, l.last_us, make_timestamp(l.first_us) AS first_time, make_timestamp(l.last_us) AS last_time,
  l.samples, l.backlog, l.backlog_max, l.queue_avg, l.queue_peak, l.queue_last,
  l.fill, l.full_samples, l.full_us, l.full_first_us, l.full_last_us, l.full_since, l.full_until, w.wait_us, w.stood_us, w.gave_up, w.wait_since, w.wait_until, l.drops_first, l.drops_last,
  CASE WHEN l.dropped > g.growth THEN g.growth ELSE l.dropped END AS drops,
  l.drops_since, l.drops_until
FROM summed AS l
LEFT JOIN accept_waits AS w USING (ns, cookie)
LEFT JOIN counter_growth AS g ON g.ns = l.ns AND g.name = 'TcpExt.ListenDrops' AND l.netid = 'tcp'
