-- title = "What this recording missed"
-- description = """
-- What a reader must know before trusting the other findings: samples left out or late, announcements
-- of closed connections lost, kernel tables cut short, processes whose descriptors could not be read,
-- namespaces that could not be entered. What is missing cannot be found. The report coverage tells
-- more. Tables that this kernel does not have are no loss.
-- """
-- needs = ["samples"]
-- uses = ["doors", "pace"]
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
WITH begun AS (
  SELECT
    sample,
    min(t_us) AS t_us,
    min(sample_time) AS sample_time,
    max(late_us) AS late_us,
    max(skipped) AS skipped
  FROM samples
  GROUP BY sample
),
spacing AS (
  SELECT
    sample,
    sample_time,
    late_us,
    skipped,
    t_us - lag(t_us) OVER (ORDER BY sample) AS spaced_us
  FROM begun
),
interval_of AS (
  -- The last sample may come early, at the end.
  SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY spaced_us) AS interval_us
  FROM spacing
),
pace AS (
  SELECT
    count(*) AS samples,
    min(s.sample_time) AS since,
    max(s.sample_time) AS until,
    coalesce(sum(s.skipped), 0) AS skipped,
    count(CASE WHEN s.late_us > 0.1 * i.interval_us THEN 1 END) AS late
  FROM spacing AS s
  CROSS JOIN interval_of AS i
),
steps AS (
  SELECT
    coalesce(sum(lost), 0) AS lost,
    coalesce(sum(CASE WHEN step = 'closes' THEN rows ELSE 0 END), 0) AS closes,
    coalesce(max(denied), 0) AS denied,
    -- Those known are all of the host that hold a socket.
    1.0 * max(denied) / nullif(max(denied + rows), 0) AS denied_share,
    count(CASE WHEN outcome IN ('truncated', 'corrupt', 'error', 'busy') THEN 1 END) AS broken
  FROM samples
),
doors AS (
  SELECT count(*) AS locked
  FROM (
    SELECT netns
    FROM namespaces
    GROUP BY netns
    HAVING max_by(CASE WHEN entered THEN 1 WHEN NOT entered THEN 0 END, valid_from) = 0
  ) AS not_entered
),
missed AS (
  SELECT
    p.*,
    s.lost,
    s.closes,
    CASE WHEN 100.0 * s.denied_share >= x.denied_percent THEN s.denied ELSE 0 END AS denied,
    s.broken,
    d.locked,
    1.0 * (p.skipped + p.late) / (p.samples + p.skipped) AS late_share,
    1.0 * s.lost / nullif(s.lost + s.closes, 0) AS lost_share
  FROM pace AS p
  CROSS JOIN steps AS s
  CROSS JOIN doors AS d
  CROSS JOIN params AS x
  WHERE p.samples > 0
),
judged AS (
  SELECT
    m.*,
    CASE
      WHEN 100.0 * m.late_share >= p.late_percent AND m.skipped + m.late >= p.late_samples THEN 1
      ELSE 0
    END AS is_late,
    CASE WHEN 100.0 * m.lost_share >= p.lost_percent THEN 1 ELSE 0 END AS is_lost,
    p.late_percent
  FROM missed AS m
  CROSS JOIN params AS p
)
SELECT
  'note' AS severity,
  CAST(
    CASE
      WHEN j.is_lost = 1 AND j.lost_share > j.late_share THEN j.lost_share
      ELSE j.late_share
    END AS DOUBLE
  ) AS score,
  'this recording' AS subject,
  CAST(NULL AS BIGINT) AS netns,
  CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm,
  j.since AS since,
  j.until AS until,
  CAST(100.0 * j.late_share AS DOUBLE) AS measured,
  CAST(j.late_percent AS DOUBLE) AS threshold,
  concat(
    'this recording did not see everything: ',
    substr(
      concat(
        CASE
          WHEN j.is_late = 1 AND j.skipped > 0
            THEN printf(
              ', %,d of %,d samples left out',
              CAST(j.skipped AS BIGINT), CAST(j.samples + j.skipped AS BIGINT)
            )
          ELSE ''
        END,
        CASE
          WHEN j.is_late = 1 AND j.late > 0 THEN printf(', %,d of %,d samples late', j.late, j.samples)
          ELSE ''
        END,
        CASE
          WHEN j.is_lost = 1
            THEN printf(
              ', %.1f %% of the announcements of closed sockets lost (%,d)',
              CAST(100.0 * j.lost_share AS DOUBLE), CAST(j.lost AS BIGINT)
            )
          ELSE ''
        END,
        CASE
          WHEN j.broken > 0
            THEN printf(', looks at a kernel table that failed or were cut short: %,d', j.broken)
          ELSE ''
        END,
        CASE
          WHEN j.denied > 0
            THEN printf(', processes whose sockets could not be told (no permission): %,d', j.denied)
          ELSE ''
        END,
        CASE
          WHEN j.locked > 0 THEN printf(', network namespaces that could not be entered: %,d', j.locked)
          ELSE ''
        END
      ),
      3
    )
  ) AS sentence,
  'coverage' AS report
FROM judged AS j
WHERE j.is_late = 1 OR j.is_lost = 1 OR j.broken > 0 OR j.denied > 0 OR j.locked > 0
