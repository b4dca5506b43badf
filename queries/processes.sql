-- title = "What the processes that hold sockets were doing"
-- description = """
-- CPU, state and descriptors beside sockets. First come processes that could not work: stopped, in
-- uninterruptible sleep (a disk or a file server that does not answer) or without a free descriptor,
-- for a fifth of the time or more; then those that used most CPU. About 1 of cores in one thread is
-- all that this thread can do, whatever else is idle. A process that its cgroup throttles stands still
-- for the rest of each period. Of where it waited only what was so while something waited at a socket
-- of it is recorded.
-- """
-- needs = ["processes"]
-- uses = ["descriptor_counts", "doing", "overlap_us", "process_looks"]
-- ranks = [
--   "comm", "pid", "cores", "cores_peak", "doing", "fds_peak", "fd_limit", "sockets_peak", "stopped_s", "blocked_s", "throttled_percent",
-- ]
--
-- [columns]
-- pid = "Process."
-- comm = "Its name."
-- cores = "CPU time that it used as a share of the time: 1 is one core all the time."
-- cores_peak = "Most of it from one look to the next."
-- busiest_peak = "The same of one of its threads; empty if all together used less than seven tenths of a core, or it has only one."
-- doing = "What it was doing on the whole."
-- stopped_s = "For how long it was stopped, by a signal or a tracer."
-- blocked_s = "For how long its first thread was in uninterruptible sleep."
-- threads = "Its threads, at the last look."
-- sockets_peak = "Most sockets in one sample that it has a descriptor of."
-- fds_peak = "Most descriptors at one look, files and pipes too."
-- fd_limit = "How many it may have."
-- full_s = "For how long it had no descriptor left."
-- rss_peak_bytes = "Most resident memory at one look."
-- cpu_limit = "Cores that its cgroup may use; empty if there is no limit."
-- throttled_percent = "Share of the periods of that cgroup in which it was throttled."
-- memory_limit_hits = "How often its cgroup met its limit of memory; empty if there is none."
-- oom_kills = "Processes killed in it for want of memory."
-- since = "First look at it."
-- until = "Last one."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes are listed; 0 lists all."
WITH within AS (
  SELECT l AS look, greatest(l.at_us, coalesce(p.from_us, l.at_us)) AS since_us
  FROM process_looks AS l CROSS JOIN params AS p
),
lives AS (
  SELECT look, min(since_us) OVER life AS since_us, max(look.until_us) OVER life AS until_us
  FROM within
  WINDOW life AS (PARTITION BY look.pid, look.start_us)
),
summed AS (
  SELECT
    look.pid AS pid, look.start_us AS start_us, max_by(look.comm, look.at_us) AS comm,
    min(since_us) AS since_us, max(until_us) AS until_us,
    1.0 * coalesce(sum(look.cpu_us) FILTER (WHERE look.at_us > since_us), 0) / nullif(max(until_us - since_us), 0) AS cores,
    max(look.cores) FILTER (WHERE look.at_us > since_us) AS cores_peak,
    max(1.0 * look.busiest_us / nullif(look.at_us - look.from_us, 0)) FILTER (WHERE look.at_us > since_us) AS busiest_peak,
    doing(look, since_us, until_us) AS doing,
    coalesce(sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state IN ('T', 't')), 0) AS stopped_us,
    coalesce(sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 'D'), 0) AS blocked_us,
    coalesce(sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.fds >= look.fd_limit), 0) AS full_us,
    max_by(look.threads, look.at_us) AS threads, max(look.fds) AS fds_peak, max_by(look.fd_limit, look.at_us) AS fd_limit,
    max(look.rss_bytes) AS rss_peak, max_by(look.cpu_limit_us, look.at_us) AS cpu_limit_us,
    100.0 * sum(look.throttled) FILTER (WHERE look.at_us > since_us) / nullif(sum(look.periods) FILTER (WHERE look.at_us > since_us), 0)
      AS throttled_percent,
    coalesce(sum(look.memory_limit_hits) FILTER (WHERE look.at_us > since_us), 0) AS hits,
    coalesce(sum(look.oom_kills) FILTER (WHERE look.at_us > since_us), 0) AS kills, max(look.memory_limit_bytes) AS memory_limit
  FROM lives
  GROUP BY look.pid, look.start_us
)
SELECT
  s.pid, s.comm, round(s.cores, 2) AS cores, round(s.cores_peak, 2) AS cores_peak, round(s.busiest_peak, 2) AS busiest_peak, s.doing,
  round(s.stopped_us / 1000000.0, 1) AS stopped_s, round(s.blocked_us / 1000000.0, 1) AS blocked_s, s.threads,
  h.sockets_peak, s.fds_peak, s.fd_limit, round(s.full_us / 1000000.0, 1) AS full_s, s.rss_peak AS rss_peak_bytes,
  round(s.cpu_limit_us / 1000000.0, 2) AS cpu_limit, round(s.throttled_percent, 1) AS throttled_percent,
  CASE WHEN s.memory_limit IS NOT NULL THEN CAST(s.hits AS BIGINT) END AS memory_limit_hits,
  CASE WHEN s.memory_limit IS NOT NULL THEN CAST(s.kills AS BIGINT) END AS oom_kills,
  make_timestamp(s.since_us) AS since, make_timestamp(s.until_us) AS until
FROM summed AS s
JOIN (SELECT pid, start_us, max(sockets) AS sockets_peak FROM descriptor_counts GROUP BY pid, start_us) AS h USING (pid, start_us)
CROSS JOIN params
QUALIFY params.top = 0 OR row_number() OVER (
  ORDER BY 5 * greatest(s.stopped_us, s.blocked_us, s.full_us) >= s.until_us - s.since_us AND s.until_us > s.since_us DESC,
    s.cores DESC NULLS LAST, s.pid, s.start_us
) <= params.top
ORDER BY
  5 * greatest(s.stopped_us, s.blocked_us, s.full_us) >= s.until_us - s.since_us AND s.until_us > s.since_us DESC,
  s.cores DESC NULLS LAST, s.pid, s.start_us
