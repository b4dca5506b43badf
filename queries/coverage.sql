-- title = "What this recording saw and missed"
-- description = """
-- Whether the recording can be trusted: how many TCP connections it saw of those the kernel counted,
-- and what it could not read. The first row is the whole recording, the others its network
-- namespaces, the one that missed most first. Connections are counted from the first sample of the
-- scope that read the namespace to the last: those that the first one found are on neither side, so
-- a namespace of one sample has no numbers. The kernel's count is what Tcp.ActiveOpens and
-- Tcp.PassiveOpens grew by; a connection over loopback counts at both of its ends, and an attempt
-- that failed counts too. A socket that its peer reset is in no table: it is seen when its process
-- closes it. The kernel is asked just before and just after the sockets are read, hence the margin:
-- by so many connections the two may differ though nothing was missed. What the recording does not
-- say is nothing, never 0.
-- """
--
-- [columns]
-- netns = "Inode number of the network namespace; nothing in the row of the whole recording."
-- name = "What the namespace is mounted as, else home, else a process in it; all: the whole recording."
-- says = "The share in words, and how many announcements were lost."
-- seen = "TCP connections seen, open in a sample or announced when they were closed, none twice."
-- kernel = "TCP connections by the kernel's own counters."
-- margin = "TCP connections that came while the first or the last sample was being taken; at least as many as were once announced a sample late."
-- share_percent = "Share of seen in kernel, rounded down; 100 where no more than the margin is missing."
-- closes = "Closed TCP and UDP sockets that the kernel announced."
-- lost = "Announcements that were lost, as the buffer for them was full."
-- samples = "Samples of the namespace."
-- late = "Samples begun later than a tenth of the interval after their due time."
-- skipped = "Due samples that were left out."
-- empty = "Tables not read, as the kernel counted no such socket."
-- rotated = "Tables not read, as their turn came in a later sample."
-- unavailable = "Tables not read, as this kernel has no way to."
-- incomplete = "Steps that failed or were cut short."
-- example = "One of these, and how it ended."
-- unresolved = "Most sockets of one sample whose process was not found, in the first row only."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many namespaces are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "share_percent", type = "quantitative" }
-- y = { field = "name", sort = "x" }
WITH recorded AS (
  SELECT DISTINCT netns
  FROM samples
  WHERE netns <> 0 AND step NOT IN ('owners', 'namespaces', 'closes')
),
asked AS (
  SELECT
    CASE
      WHEN sum(CASE WHEN step = 'tcp' THEN 1 ELSE 0 END) > 0 THEN 1
      -- Or every namespace was without sockets all the time.
      WHEN sum(
        CASE
          WHEN step IN ('all', 'owners', 'counters', 'counters_after', 'closes', 'namespaces') THEN 0
          ELSE 1
        END
      ) = 0 THEN 1
      ELSE 0
    END AS tcp
  FROM samples
),
looks AS (
  SELECT
    coalesce(r.netns, 0) AS netns,
    s.sample,
    min(s.t_us) AS t_us,
    min(s.sample_time) AS sample_time,
    max(s.late_us) AS late_us,
    max(s.skipped) AS skipped,
    max(
      CASE
        WHEN asked.tcp = 0 THEN 0
        WHEN s.step = 'tcp' AND s.outcome IN ('ok', 'skipped_empty') THEN 1
        WHEN s.step = 'all' AND s.outcome = 'skipped_empty' THEN 1
        ELSE 0
      END
    ) AS complete,
    sum(
      CASE
        WHEN s.step IN ('tcp', 'all') AND s.outcome = 'skipped_empty' AND asked.tcp = 1 THEN 0
        WHEN s.step IN ('tcp', 'closes') THEN s.opened
      END
    ) AS opened,
    sum(CASE WHEN s.step = 'closes' THEN s.rows END) AS closes,
    sum(CASE WHEN s.step = 'closes' THEN s.lost END) AS lost,
    sum(CASE WHEN s.outcome = 'skipped_empty' THEN 1 ELSE 0 END) AS empty,
    sum(CASE WHEN s.outcome = 'rotated' THEN 1 ELSE 0 END) AS rotated,
    sum(CASE WHEN s.outcome = 'unavailable' THEN 1 ELSE 0 END) AS unavailable,
    sum(
      CASE
        WHEN s.outcome NOT IN ('ok', 'skipped_empty', 'rotated', 'unavailable') THEN 1
        ELSE 0
      END
    ) AS incomplete,
    max(
      CASE
        WHEN s.outcome NOT IN ('ok', 'skipped_empty', 'rotated', 'unavailable')
          THEN concat(s.step, ' ', s.outcome)
      END
    ) AS example,
    max(CASE WHEN s.step = 'owners' THEN s.unresolved END) AS unresolved
  FROM samples AS s
  -- What is not of a namespace that was recorded is of the whole host.
  LEFT JOIN recorded AS r
    ON r.netns = s.netns
  CROSS JOIN asked
  GROUP BY coalesce(r.netns, 0), s.sample
),
begun AS (
  SELECT
    sample,
    min(t_us) AS t_us,
    min(sample_time) AS sample_time,
    max(late_us) AS late_us,
    max(skipped) AS skipped
  FROM looks
  GROUP BY sample
),
pace AS (
  SELECT median(gap_us) AS interval_us, min(sample_time) AS start
  FROM (
    SELECT
      sample_time,
      1.0 * (t_us - lag(t_us) OVER (ORDER BY sample)) / (1 + coalesce(skipped, 0)) AS gap_us
    FROM begun
  ) AS gaps
),
opens AS (
  -- Changes only, those before the scope too: a value holds until the next.
  SELECT
    netns,
    2 * sample + CASE WHEN phase = 'after' THEN 1 ELSE 0 END AS place,
    value,
    lag(value) OVER (
      PARTITION BY netns, name
      ORDER BY sample, CASE WHEN phase = 'after' THEN 1 ELSE 0 END, value NULLS FIRST
    ) AS former
  FROM raw.counters
  WHERE source = 'snmp' AND name IN ('Tcp.ActiveOpens', 'Tcp.PassiveOpens')
),
moves AS (
  SELECT
    netns,
    place,
    CAST(NULL AS BIGINT) AS sample,
    CASE WHEN value >= former THEN value - former ELSE 0 END AS more,
    -- A counter that is new, gone, or fell: the namespace is another one of the same number.
    CASE WHEN value >= former THEN 0 ELSE 1 END AS another,
    CASE WHEN value IS NULL THEN 0 ELSE 1 END - CASE WHEN former IS NULL THEN 0 ELSE 1 END AS known
  FROM opens
  UNION ALL
  SELECT DISTINCT
    netns,
    2 * sample + CASE WHEN step = 'counters_after' THEN 1 ELSE 0 END AS place,
    sample,
    0 AS more,
    0 AS another,
    0 AS known
  FROM samples
  WHERE step IN ('counters', 'counters_after') AND outcome IN ('ok', 'partial')
),
totals AS (
  SELECT
    netns,
    place,
    sample,
    sum(more) OVER (PARTITION BY netns ORDER BY place, sample NULLS FIRST) AS total,
    sum(another) OVER (PARTITION BY netns ORDER BY place, sample NULLS FIRST) AS life,
    sum(known) OVER (PARTITION BY netns ORDER BY place, sample NULLS FIRST) AS known
  FROM moves
),
readings AS (
  -- Of the samples that know every connection open at their time; life is that of the number.
  SELECT
    t.netns,
    t.sample,
    min(t.life) AS life,
    min(l.opened) AS opened,
    min(l.seen) AS seen,
    min(CASE WHEN t.place = 2 * t.sample THEN t.total END) AS before,
    min(CASE WHEN t.place > 2 * t.sample THEN t.total END) AS after
  FROM totals AS t
  JOIN (
    SELECT
      netns,
      sample,
      complete,
      coalesce(opened, 0) AS opened,
      sum(coalesce(opened, 0)) OVER (PARTITION BY netns ORDER BY sample) AS seen
    FROM looks
  ) AS l
    ON l.netns = t.netns
    AND l.sample = t.sample
  WHERE t.known = 2 AND l.complete = 1
  GROUP BY t.netns, t.sample
  HAVING min(t.life) = max(t.life) AND min(t.place) = 2 * t.sample
),
growths AS (
  SELECT
    netns,
    life,
    sample,
    opened,
    seen,
    coalesce(after, before) AS total,
    after - before AS meanwhile,
    lead(before) OVER (PARTITION BY netns, life ORDER BY sample) - before AS next_growth,
    coalesce(after, before) - lag(coalesce(after, before)) OVER (
      PARTITION BY netns, life ORDER BY sample
    ) AS growth,
    seen - lag(seen) OVER (PARTITION BY netns, life ORDER BY sample) AS more_seen,
    min(sample) OVER (PARTITION BY netns, life) AS first_sample,
    max(sample) OVER (PARTITION BY netns, life) AS last_sample
  FROM readings
),
counted AS (
  -- The ends: what came between the reading before and the one after may be in either count; where
  -- there is only the one before, what was seen first in that sample may have come after it.
  -- Announcements may be under way for longer: so many as once came a sample later than counted.
  SELECT
    netns,
    max(seen) - min(seen) AS seen,
    max(total) - min(total) AS kernel,
    sum(
      CASE
        WHEN sample = last_sample THEN coalesce(meanwhile, 0)
        WHEN sample > first_sample OR meanwhile IS NOT NULL THEN 0
        WHEN opened < next_growth THEN opened
        ELSE next_growth
      END
    ) AS unseen_margin,
    sum(
      CASE
        WHEN sample = first_sample THEN coalesce(meanwhile, 0)
        WHEN sample < last_sample OR meanwhile IS NOT NULL THEN 0
        ELSE opened
      END
    ) AS excess_margin,
    max(more_seen - growth) AS delayed
  FROM growths
  GROUP BY netns, life
  HAVING max(sample) > min(sample)
),
compared AS (
  SELECT
    netns,
    seen,
    kernel,
    CASE
      WHEN delayed >= unseen_margin AND delayed >= excess_margin THEN delayed
      WHEN unseen_margin >= excess_margin THEN unseen_margin
      ELSE excess_margin
    END AS margin
  FROM counted
),
shares AS (
  SELECT
    netns,
    sum(seen) AS seen,
    sum(kernel) AS kernel,
    sum(margin) AS margin,
    sum(CASE WHEN kernel - seen > margin THEN seen ELSE kernel END) AS proven
  FROM compared
  GROUP BY netns
  UNION ALL
  -- Without the kernel's counters.
  SELECT
    l.netns,
    sum(CASE WHEN l.sample > f.first_sample THEN l.opened END) AS seen,
    NULL AS kernel,
    NULL AS margin,
    NULL AS proven
  FROM looks AS l
  JOIN (SELECT netns, min(sample) AS first_sample FROM looks GROUP BY netns) AS f
    ON f.netns = l.netns
  WHERE l.netns <> 0
    AND NOT EXISTS (SELECT 1 FROM totals WHERE totals.netns = l.netns AND totals.known = 2)
  GROUP BY l.netns
),
named AS (
  SELECT
    netns,
    CASE WHEN name IS NOT NULL THEN name WHEN home THEN 'home' ELSE comm END AS name,
    entered,
    valid_to,
    row_number() OVER (
      PARTITION BY netns
      ORDER BY valid_from DESC, CASE WHEN valid_to IS NULL THEN 1 ELSE 0 END, sample DESC
    ) AS place
  FROM namespaces
),
summed AS (
  SELECT
    l.netns,
    min(s.seen) AS seen,
    min(s.kernel) AS kernel,
    min(s.margin) AS margin,
    min(s.proven) AS proven,
    sum(l.closes) AS closes,
    sum(l.lost) AS lost,
    count(*) AS samples,
    sum(
      CASE
        WHEN l.late_us <= 0.1 * p.interval_us THEN 0
        WHEN l.late_us > 0.1 * p.interval_us THEN 1
      END
    ) AS late,
    sum(l.skipped) AS skipped,
    sum(l.empty) AS empty,
    sum(l.rotated) AS rotated,
    sum(l.unavailable) AS unavailable,
    sum(l.incomplete) AS incomplete,
    max(l.example) AS example,
    max(l.unresolved) AS unresolved
  FROM looks AS l
  LEFT JOIN shares AS s
    ON s.netns = l.netns
  CROSS JOIN pace AS p
  GROUP BY l.netns
),
lines AS (
  SELECT
    CAST(NULL AS BIGINT) AS netns,
    'all' AS name,
    true AS entered,
    -- A namespace of which one of the two is not known would spoil the share of all.
    CASE
      WHEN sum(CASE WHEN seen IS NULL AND kernel IS NOT NULL THEN 1 ELSE 0 END) = 0
        THEN sum(seen)
    END AS seen,
    CASE
      WHEN sum(CASE WHEN kernel IS NULL AND seen IS NOT NULL THEN 1 ELSE 0 END) = 0
        THEN sum(kernel)
    END AS kernel,
    sum(margin) AS margin,
    sum(proven) AS proven,
    sum(closes) AS closes,
    sum(lost) AS lost,
    min(b.samples) AS samples,
    min(b.late) AS late,
    min(b.skipped) AS skipped,
    sum(empty) AS empty,
    sum(rotated) AS rotated,
    sum(unavailable) AS unavailable,
    sum(incomplete) AS incomplete,
    max(example) AS example,
    max(unresolved) AS unresolved
  FROM summed
  CROSS JOIN (
    SELECT
      count(*) AS samples,
      sum(
        CASE
          WHEN begun.late_us <= 0.1 * pace.interval_us THEN 0
          WHEN begun.late_us > 0.1 * pace.interval_us THEN 1
        END
      ) AS late,
      sum(begun.skipped) AS skipped
    FROM begun
    CROSS JOIN pace
  ) AS b
  UNION ALL
  SELECT
    s.netns, n.name, n.entered, s.seen, s.kernel, s.margin, s.proven, s.closes, s.lost, s.samples,
    s.late, s.skipped, s.empty, s.rotated, s.unavailable, s.incomplete, s.example,
    CAST(NULL AS BIGINT) AS unresolved
  FROM summed AS s
  LEFT JOIN named AS n
    ON n.netns = s.netns
    AND n.place = 1
  WHERE s.netns <> 0
  UNION ALL
  SELECT
    n.netns, n.name, n.entered, NULL AS seen, NULL AS kernel, NULL AS margin, NULL AS proven,
    NULL AS closes, NULL AS lost, 0 AS samples, NULL AS late, NULL AS skipped, NULL AS empty,
    NULL AS rotated, NULL AS unavailable, NULL AS incomplete, NULL AS example, NULL AS unresolved
  FROM named AS n
  CROSS JOIN pace AS p
  WHERE n.place = 1
    AND NOT n.entered
    AND (n.valid_to IS NULL OR n.valid_to >= p.start)
    AND NOT EXISTS (SELECT 1 FROM looks WHERE looks.netns = n.netns)
),
shared AS (
  SELECT
    lines.*,
    CASE
      WHEN kernel = 0 AND seen > 0 THEN 100.0
      -- A margin of all that there was says nothing.
      WHEN seen < kernel AND proven = kernel AND margin >= kernel THEN NULL
      WHEN kernel > 0 AND seen IS NOT NULL
        THEN floor(10000.0 * CAST(proven AS DOUBLE) / kernel) / 100.0
    END AS share_percent,
    CASE WHEN lost > 0 THEN concat(CAST(lost AS BIGINT), ' announcements lost') END AS loss,
    row_number() OVER (
      ORDER BY CASE WHEN netns IS NULL THEN 0 ELSE 1 END, kernel - proven DESC NULLS LAST, netns
    ) AS place
  FROM lines
),
said AS (
  SELECT
    shared.*,
    CASE
      WHEN share_percent IS NOT NULL THEN concat('saw ', share_percent, ' % of connections')
      WHEN kernel = 0 AND seen = 0 THEN 'no connections'
      WHEN kernel > 0 AND seen IS NOT NULL THEN 'too few connections to tell'
      WHEN NOT entered THEN 'could not be entered'
    END AS words
  FROM shared
)
SELECT
  s.netns AS netns,
  s.name AS name,
  CASE
    WHEN s.loss IS NULL THEN s.words
    WHEN s.words IS NULL THEN s.loss
    ELSE concat(s.words, ', ', s.loss)
  END AS says,
  CAST(s.seen AS BIGINT) AS seen,
  CAST(s.kernel AS BIGINT) AS kernel,
  CAST(s.margin AS BIGINT) AS margin,
  CAST(s.share_percent AS DOUBLE) AS share_percent,
  CAST(s.closes AS BIGINT) AS closes,
  CAST(s.lost AS BIGINT) AS lost,
  s.samples AS samples,
  CAST(s.late AS BIGINT) AS late,
  CAST(s.skipped AS BIGINT) AS skipped,
  CAST(s.empty AS BIGINT) AS empty,
  CAST(s.rotated AS BIGINT) AS rotated,
  CAST(s.unavailable AS BIGINT) AS unavailable,
  CAST(s.incomplete AS BIGINT) AS incomplete,
  s.example AS example,
  s.unresolved AS unresolved
FROM said AS s
CROSS JOIN params AS p
WHERE p.top = 0 OR s.place <= p.top + 1
ORDER BY s.place
