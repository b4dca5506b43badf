-- title = "How the descriptors of a process rise towards its limit"
-- description = """
-- One row per process whose limit is known, of all its descriptors, or of its sockets where no more
-- is known. A rise is a line through all samples, so that it is the same from any end of the recording
-- and others may come and go meanwhile; it goes on if the second half rises at no less than half the
-- pace, and the last quarter at no less than a quarter: who has come to rest a moment ago climbs no more.
-- """
-- uses = ["descriptor_counts", "fd_limits", "slope_of"]
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- fd_limit = "Its limit."
-- all_known = "Whether files and pipes are counted."
-- at_first = "Descriptors in the first sample that showed a socket."
-- peak = "Most in one sample."
-- peak_sample = "First sample with so many."
-- peak_sockets = "Those of them that were sockets."
-- per_second = "Descriptors that come a second, by that line."
-- rise_us = "For how long."
-- left_s = "Seconds until all of the limit is taken at that pace; nothing if the line explains less than 60 % of the ups and downs, or the rise does not go on."
-- half_sample = "First sample of the second half of its time."
-- late_sample = "First one of the last fifth."
-- levels = "List of the descriptors in the order of the samples."
-- times = "List of the times of these."
WITH counts AS (
  SELECT s.*, a.fd_limit
  FROM descriptor_counts AS s JOIN fd_limits AS a ON a.pid = s.pid AND a.start_us = s.start_us
),
moments AS (
  SELECT
    *, min(t_us) OVER life AS begun_us, max(t_us) OVER life AS ended_us, (t_us - begun_us) / 1000000.0 AS second,
    -- What a process that ends holds in its last sample says nothing of how it lived.
    CASE WHEN lead(sample) OVER in_turn IS NOT NULL OR 2 * descriptors >= lag(descriptors) OVER in_turn THEN descriptors END AS lived
  FROM counts
  WINDOW life AS (PARTITION BY pid, start_us), in_turn AS (PARTITION BY pid, start_us ORDER BY sample)
),
trends AS (
  SELECT
    pid, start_us, fd_limit, bool_and(all_known) AS all_known, arg_min_null(descriptors, sample) AS at_first, max(descriptors) AS peak,
    max_by(sample, 1000000000 * descriptors - sample) AS peak_sample, max_by(sockets, 1000000000 * descriptors - sample) AS peak_sockets,
    slope_of(lived, second) AS per_second, regr_r2(lived, second) AS fit,
    slope_of(CASE WHEN 2 * (t_us - begun_us) >= ended_us - begun_us THEN lived END, second) AS late_per_second,
    slope_of(CASE WHEN 4 * (t_us - begun_us) >= 3 * (ended_us - begun_us) THEN lived END, second) AS last_per_second,
    regr_intercept(lived, second) + slope_of(lived, second) * max(second) AS level,
    min(sample) FILTER (WHERE 2 * (t_us - begun_us) >= ended_us - begun_us) AS half_sample,
    min(sample) FILTER (WHERE 5 * (t_us - begun_us) >= 4 * (ended_us - begun_us)) AS late_sample,
    max(ended_us) - max(begun_us) AS rise_us, min(sample) AS first_sample, max(sample) AS last_sample, max(sample_time) AS until,
    list(descriptors ORDER BY sample) FILTER (WHERE descriptors IS NOT NULL) AS levels,
    list(sample_time ORDER BY sample) FILTER (WHERE descriptors IS NOT NULL) AS times
  FROM moments
  GROUP BY pid, start_us, fd_limit
)
SELECT
  pid, start_us, fd_limit, all_known, at_first, peak, peak_sample, peak_sockets, per_second, rise_us, half_sample, late_sample,
  first_sample, last_sample, until, levels, times,
  CASE
    WHEN per_second > 0 AND fit >= 0.6 AND 2 * late_per_second >= per_second AND coalesce(4 * last_per_second >= per_second, true)
      THEN greatest(0.0, (fd_limit - level) / per_second)
  END AS left_s
FROM trends
