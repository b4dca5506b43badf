-- title = "What this recording missed"
-- description = """
-- What a reader must know before trusting the other findings: samples left out or late, announcements
-- of closed connections lost, kernel tables cut short, processes whose descriptors could not be read,
-- namespaces that could not be entered, times without any sample (the recorder stopped, the host
-- suspended, nothing between two runs), and a wall clock that was set: times and ages across it are off by so much. What is missing cannot be found. The report coverage tells
-- more. Tables that this kernel does not have are no loss.
-- """
-- needs = ["samples"]
-- uses = ["punctuality"]
--
-- [params.late_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of the samples begun later than a tenth of the interval, or left out: single ones happen on any busy host."
--
-- [params.late_samples]
-- type = "BIGINT"
-- default = 3
-- doc = "Nor fewer than so many: in a short recording a single one is a large share."
--
-- [params.lost_percent]
-- type = "DOUBLE"
-- default = 0.1
-- doc = "Share of the announcements that were lost: below it the counts of connections hold to the third figure."
--
-- [params.denied_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of the processes whose descriptors could not be read: even root is refused by a few that protect themselves."
--
-- [params.gap_s]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Seconds without a sample, and three intervals: what came and went meanwhile is in closes only, if the recorder lived."
--
-- [params.step_s]
-- type = "DOUBLE"
-- default = 1.0
-- doc = "Seconds by which the wall clock moved against CLOCK_BOOTTIME, and a thousandth of the time between: what adjusts it slowly does half of that."
WITH steps AS (
  SELECT
    coalesce(sum(lost), 0) AS lost, coalesce(sum(rows) FILTER (WHERE step = 'closes'), 0) AS closes,
    coalesce(max(denied), 0) AS denied,
    -- Those known are all of the host that hold a socket.
    1.0 * max(denied) / nullif(max(denied + rows), 0) AS denied_share,
    count(*) FILTER (WHERE outcome IN ('truncated', 'corrupt', 'error', 'busy')) AS broken
  FROM samples
),
doors_shut AS (
  SELECT count(*) AS locked
  FROM (
    SELECT ns
    FROM namespaces
    GROUP BY ns
    HAVING NOT max_by(entered, valid_from)
  ) AS not_entered
),
clocks AS (
  SELECT sample, min(t_us) AS t_us, min(boottime_us) AS boottime_us FROM samples GROUP BY sample
),
paces AS (
  -- boottime goes on while the host is suspended, and is never set.
  SELECT
    1e-6 * (boottime_us - lag(boottime_us) OVER s) AS passed_s, 1e-6 * (t_us - lag(t_us) OVER s) AS wall_s
  FROM clocks
  WINDOW s AS (ORDER BY sample)
),
breaks AS (
  SELECT
    count(*) FILTER (WHERE passed_s >= greatest(x.gap_s, 3e-6 * p.interval_us)) AS gaps, max(passed_s) AS longest_s,
    count(*) FILTER (WHERE abs(wall_s - passed_s) >= greatest(x.step_s, 0.001 * passed_s)) AS steps,
    arg_max(wall_s - passed_s, abs(wall_s - passed_s)) AS step_s
  FROM paces CROSS JOIN punctuality AS p CROSS JOIN params AS x
  WHERE passed_s > 0
),
missed AS (
  SELECT
    b.*, p.samples, p.since, p.until, coalesce(p.skipped, 0) AS skipped, coalesce(p.late, 0) AS late, s.lost, s.broken, d.locked,
    CASE WHEN 100.0 * s.denied_share >= x.denied_percent THEN s.denied ELSE 0 END AS denied,
    1.0 * (coalesce(p.skipped, 0) + coalesce(p.late, 0)) / (p.samples + coalesce(p.skipped, 0)) AS late_share,
    1.0 * s.lost / nullif(s.lost + s.closes, 0) AS lost_share,
    100.0 * late_share >= x.late_percent AND coalesce(p.skipped, 0) + coalesce(p.late, 0) >= x.late_samples AS is_late,
    coalesce(100.0 * lost_share >= x.lost_percent, false) AS is_lost, x.late_percent
  FROM punctuality AS p CROSS JOIN steps AS s CROSS JOIN doors_shut AS d CROSS JOIN breaks AS b CROSS JOIN params AS x
  WHERE p.samples > 0
)
SELECT
  'note' AS severity, CAST(CASE WHEN j.is_lost AND j.lost_share > j.late_share THEN j.lost_share ELSE j.late_share END AS DOUBLE) AS score,
  'this recording' AS subject, CAST(NULL AS BIGINT) AS netns, CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm,
  j.since, j.until, CAST(100.0 * j.late_share AS DOUBLE) AS measured, CAST(j.late_percent AS DOUBLE) AS threshold,
  concat(
    'this recording did not see everything: ',
    concat_ws(
      ', ',
      CASE
        WHEN j.is_late AND j.skipped > 0
          THEN printf('%,d of %,d samples left out', CAST(j.skipped AS BIGINT), CAST(j.samples + j.skipped AS BIGINT))
      END,
      CASE WHEN j.is_late AND j.late > 0 THEN printf('%,d of %,d samples late', CAST(j.late AS BIGINT), j.samples) END,
      CASE
        WHEN j.is_lost
          THEN printf(
            '%.1f %% of the announcements of closed sockets lost (%,d)',
            CAST(100.0 * j.lost_share AS DOUBLE), CAST(j.lost AS BIGINT)
          )
      END,
      CASE
        WHEN j.gaps > 0 THEN printf('no sample for %,.0f s', CAST(j.longest_s AS DOUBLE))
          || CASE WHEN j.gaps > 1 THEN printf(' (the longest of %,d gaps)', j.gaps) ELSE '' END
      END,
      CASE
        WHEN j.steps > 0
          THEN printf(
            'the wall clock was set %s by %,.0f s', CASE WHEN j.step_s > 0 THEN 'forward' ELSE 'back' END, CAST(abs(j.step_s) AS DOUBLE)
          )
            || CASE WHEN j.steps > 1 THEN printf(' (the most of %,d times)', j.steps) ELSE '' END
      END,
      CASE WHEN j.broken > 0 THEN printf('looks at a kernel table that failed or were cut short: %,d', j.broken) END,
      CASE WHEN j.denied > 0 THEN printf('processes whose sockets could not be told (no permission): %,d', j.denied) END,
      CASE WHEN j.locked > 0 THEN printf('network namespaces that could not be entered: %,d', j.locked) END
    )
  ) AS sentence,
  'coverage' AS report
FROM missed AS j
WHERE j.is_late OR j.is_lost OR j.gaps > 0 OR j.steps > 0 OR j.broken > 0 OR j.denied > 0 OR j.locked > 0
