-- title = "What processes did, look by look"
-- description = """
-- One row for each row of processes, as process_activity has it: what it used of the CPU since the look
-- before, and until when it stayed the same.
-- """
-- uses = ["who"]
-- [columns]
-- from_us = "Look before it, in microseconds UTC; nothing of the first one."
-- at_us = "The look."
-- until_us = "Last look that found it the same."
-- cpu_us = "CPU time that it used since from_us, all threads together."
-- cores = "That as a share of the time."
-- periods = "Periods in which its cgroup ran, since the row before."
-- throttled = "Those of them in which it was throttled."
-- memory_limit_hits = "How often that met its limit since the row before."
-- oom_kills = "Processes killed in it since the row before."
WITH life_ends AS (
  SELECT
    pid, start_us,
    -- Of one that was described anew the last description has not ended.
    CASE
      WHEN count(DISTINCT valid_from) FILTER (WHERE valid_to IS NOT NULL) = count(DISTINCT valid_from) THEN epoch_us(max(valid_to))
    END AS end_us
  FROM raw.owners
  GROUP BY pid, start_us
),
told AS (
  SELECT
    r.*, epoch_us(since) AS from_us, epoch_us(sample_time) AS at_us, lead(epoch_us(since)) OVER life AS next_us,
    -- Of what began before the scope only the end is in it.
    CASE WHEN epoch_us(sample_time) >= p.from_us OR p.from_us IS NULL THEN lag(sample) OVER life END AS former,
    utime_us + stime_us - lag(utime_us + stime_us) OVER life AS used_us,
    nr_periods - lag(nr_periods) OVER life AS more_periods, nr_throttled - lag(nr_throttled) OVER life AS more_throttled,
    memory_limit_hits - lag(memory_limit_hits) OVER life AS more_hits, oom_kills - lag(oom_kills) OVER life AS more_kills
  FROM raw.processes AS r CROSS JOIN params AS p
  WINDOW life AS (PARTITION BY pid, start_us ORDER BY sample)
)
SELECT
  t.host, t.boot, t.pid, t.start_us, t.comm, who(t.comm, t.pid) AS who, t.sample, t.from_us, t.at_us,
  greatest(t.at_us, least(coalesce(t.next_us, e.end_us), l.last_us)) AS until_us,
  t.state, t.threads, CASE WHEN t.former >= 0 THEN t.used_us END AS cpu_us,
  CASE WHEN t.former >= 0 THEN 1.0 * t.used_us / nullif(t.at_us - t.from_us, 0) END AS cores,
  t.busiest, t.busiest_comm, t.busiest_us, t.rss_bytes, t.fds, t.fd_limit, t.running, t.blocked, t.syscall,
  t.syscall_threads, t.wchan, t.cpu_limit_us,
  -- Counted anew where another cgroup is the nearest with a limit.
  CASE WHEN t.former >= 0 AND t.more_periods >= 0 THEN t.more_periods END AS periods,
  CASE WHEN t.former >= 0 AND t.more_throttled >= 0 THEN t.more_throttled END AS throttled, t.memory_limit_bytes,
  CASE WHEN t.former >= 0 AND t.more_hits >= 0 THEN t.more_hits END AS memory_limit_hits,
  CASE WHEN t.former >= 0 AND t.more_kills >= 0 THEN t.more_kills END AS oom_kills
FROM told AS t
LEFT JOIN life_ends AS e USING (pid, start_us)
CROSS JOIN (SELECT max(t_us) AS last_us FROM samples WHERE step = 'processes') AS l
CROSS JOIN params AS p
WHERE (p.to_us IS NULL OR t.at_us < p.to_us)
  AND (p.from_us IS NULL OR coalesce(t.next_us, l.last_us) >= p.from_us OR t.at_us >= p.from_us)
