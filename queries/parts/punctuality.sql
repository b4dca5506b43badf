-- title = "How well the samples kept their times"
-- description = "One row. A sample is late if it was begun later than a tenth of the interval after its due time."
-- [columns]
-- interval_us = "Time between two due times, the median."
-- samples = "Samples."
-- late = "Those that were late; nothing if that was not recorded."
-- skipped = "Due samples that were left out."
WITH begun AS (
  SELECT sample, min(t_us) AS t_us, min(sample_time) AS sample_time, max(late_us) AS late_us, max(skipped) AS skipped
  FROM samples
  GROUP BY sample
),
paces AS (
  SELECT median(gap_us) AS interval_us
  FROM (SELECT 1.0 * (t_us - lag(t_us) OVER (ORDER BY sample)) / (1 + coalesce(skipped, 0)) AS gap_us FROM begun) AS gaps
)
SELECT
  any_value(p.interval_us) AS interval_us, count(*) AS samples, min(b.sample_time) AS since, max(b.sample_time) AS until,
  sum(CASE WHEN b.late_us <= 0.1 * p.interval_us THEN 0 WHEN b.late_us > 0.1 * p.interval_us THEN 1 END) AS late,
  sum(b.skipped) AS skipped
FROM begun AS b CROSS JOIN paces AS p
