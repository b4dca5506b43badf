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
-- say is empty, never 0.
-- """
-- uses = ["netns_of", "punctuality", "was_read"]
-- ranks = [
--   "name", "netns", "says", "seen", "kernel", "lost", "share_percent", "late", "skipped", "incomplete", "example",
-- ]
--
-- [columns]
-- netns = "Inode number of the network namespace; empty in the row of the whole recording."
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
  SELECT DISTINCT ns
  FROM samples
  WHERE netns <> 0 AND step NOT IN ('owners', 'namespaces', 'closes')
),
asked AS (
  -- Or every namespace was without sockets all the time.
  SELECT bool_or(step = 'tcp')
    OR NOT bool_or(step NOT IN ('all', 'owners', 'counters', 'counters_after', 'closes', 'namespaces')) AS tcp
  FROM samples
),
looks AS (
  SELECT
    r.ns, s.sample, min(s.t_us) AS t_us, min(s.sample_time) AS sample_time, max(s.late_us) AS late_us, max(s.skipped) AS skipped,
    bool_or(
      asked.tcp AND (s.step = 'tcp' AND was_read(s.outcome) OR s.step = 'all' AND s.outcome = 'skipped_empty')
    ) AS complete,
    sum(
      CASE
        WHEN s.step IN ('tcp', 'all') AND s.outcome = 'skipped_empty' AND asked.tcp THEN 0
        WHEN s.step IN ('tcp', 'closes') THEN s.opened
      END
    ) AS opened,
    sum(s.rows) FILTER (WHERE s.step = 'closes') AS closes,
    sum(s.lost) FILTER (WHERE s.step = 'closes') AS lost,
    count(*) FILTER (WHERE s.outcome = 'skipped_empty') AS empty,
    count(*) FILTER (WHERE s.outcome = 'rotated') AS rotated,
    count(*) FILTER (WHERE s.outcome = 'unavailable') AS unavailable,
    count(*) FILTER (WHERE s.outcome NOT IN ('ok', 'skipped_empty', 'rotated', 'unavailable')) AS incomplete,
    max(concat(s.step, ' ', s.outcome)) FILTER (WHERE s.outcome NOT IN ('ok', 'skipped_empty', 'rotated', 'unavailable')) AS example,
    max(s.unresolved) FILTER (WHERE s.step = 'owners') AS unresolved
  FROM samples AS s
  -- What is not of a namespace that was recorded is of the whole host.
  LEFT JOIN recorded AS r USING (ns)
  CROSS JOIN asked
  GROUP BY r.ns, s.sample
),
opens AS (
  -- Changes only, those before the scope too: a value holds until the next.
  SELECT
    ns, 2 * sample + CASE WHEN phase = 'after' THEN 1 ELSE 0 END AS place, value,
    lag(value) OVER (PARTITION BY ns, name ORDER BY sample, phase DESC, value NULLS FIRST) AS former
  FROM raw.counters
  WHERE source = 'snmp' AND name IN ('Tcp.ActiveOpens', 'Tcp.PassiveOpens')
),
moves AS (
  SELECT
    ns, place, NULL AS sample, CASE WHEN value >= former THEN value - former ELSE 0 END AS more,
    -- A counter that is new, gone, or fell: the namespace is another one of the same number.
    CASE WHEN value >= former THEN 0 ELSE 1 END AS another,
    CAST(value IS NOT NULL AS INT) - CAST(former IS NOT NULL AS INT) AS known
  FROM opens
  UNION ALL
  SELECT DISTINCT
    ns, 2 * sample + CASE WHEN step = 'counters_after' THEN 1 ELSE 0 END AS place, sample, 0 AS more, 0 AS another, 0 AS known
  FROM samples
  WHERE step IN ('counters', 'counters_after') AND outcome IN ('ok', 'partial')
),
totals AS (
  SELECT
    ns, place, sample, sum(more) OVER so_far AS total, sum(another) OVER so_far AS life, sum(known) OVER so_far AS known
  FROM moves
  WINDOW so_far AS (PARTITION BY ns ORDER BY place, sample NULLS FIRST)
),
readings AS (
  -- Of the samples that know every connection open at their time; life is that of the number.
  SELECT
    t.ns, t.sample, min(t.life) AS life, min(l.opened) AS opened, min(l.seen) AS seen,
    min(t.total) FILTER (WHERE t.place = 2 * t.sample) AS before,
    min(t.total) FILTER (WHERE t.place > 2 * t.sample) AS after
  FROM totals AS t
  JOIN (
    SELECT
      ns, sample, complete, coalesce(opened, 0) AS opened,
      sum(coalesce(opened, 0)) OVER (PARTITION BY ns ORDER BY sample) AS seen
    FROM looks
  ) AS l ON coalesce(l.ns, 0) = t.ns AND l.sample = t.sample
  WHERE t.known = 2 AND l.complete
  GROUP BY t.ns, t.sample
  HAVING min(t.life) = max(t.life) AND min(t.place) = 2 * t.sample
),
growths AS (
  SELECT
    ns, life, sample, opened, seen, coalesce(after, before) AS total, after - before AS meanwhile,
    lead(before) OVER ns_life - before AS next_growth,
    coalesce(after, before) - lag(coalesce(after, before)) OVER ns_life AS growth,
    seen - lag(seen) OVER ns_life AS more_seen,
    min(sample) OVER (PARTITION BY ns, life) AS first_sample, max(sample) OVER (PARTITION BY ns, life) AS last_sample
  FROM readings
  WINDOW ns_life AS (PARTITION BY ns, life ORDER BY sample)
),
compared AS (
  -- The ends: what came between the reading before and the one after may be in either count; where
  -- there is only the one before, what was seen first in that sample may have come after it.
  -- Announcements may be under way for longer: so many as once came a sample later than counted.
  SELECT
    ns, max(seen) - min(seen) AS seen, max(total) - min(total) AS kernel,
    greatest(
      max(more_seen - growth),
      sum(
        CASE
          WHEN sample = last_sample THEN coalesce(meanwhile, 0)
          WHEN sample > first_sample OR meanwhile IS NOT NULL THEN 0
          WHEN opened < next_growth THEN opened
          ELSE next_growth
        END
      ),
      sum(
        CASE
          WHEN sample = first_sample THEN coalesce(meanwhile, 0)
          WHEN sample < last_sample OR meanwhile IS NOT NULL THEN 0
          ELSE opened
        END
      )
    ) AS margin
  FROM growths
  GROUP BY ns, life
  HAVING max(sample) > min(sample)
),
shares AS (
  SELECT
    ns, sum(seen) AS seen, sum(kernel) AS kernel, sum(margin) AS margin,
    sum(CASE WHEN kernel - seen > margin THEN seen ELSE kernel END) AS proven
  FROM compared
  GROUP BY ns
  UNION ALL BY NAME
  -- Without the kernel's counters.
  SELECT l.ns, sum(l.opened) FILTER (WHERE l.sample > f.first_sample) AS seen
  FROM looks AS l
  JOIN (SELECT ns, min(sample) AS first_sample FROM looks GROUP BY ns) AS f USING (ns)
  ANTI JOIN (SELECT ns FROM totals WHERE known = 2) AS t USING (ns)
  GROUP BY l.ns
),
named AS (
  SELECT ns, CASE WHEN name IS NOT NULL THEN name WHEN home THEN 'home' ELSE comm END AS name, entered, valid_to
  FROM namespaces
  QUALIFY row_number() OVER (
    PARTITION BY ns ORDER BY valid_from DESC, CASE WHEN valid_to IS NULL THEN 1 ELSE 0 END, sample DESC
  ) = 1
),
summed AS (
  SELECT
    l.ns, min(s.seen) AS seen, min(s.kernel) AS kernel, min(s.margin) AS margin, min(s.proven) AS proven,
    sum(l.closes) AS closes, sum(l.lost) AS lost, count(*) AS samples,
    sum(CASE WHEN l.late_us <= 0.1 * p.interval_us THEN 0 WHEN l.late_us > 0.1 * p.interval_us THEN 1 END) AS late,
    sum(l.skipped) AS skipped, sum(l.empty) AS empty, sum(l.rotated) AS rotated, sum(l.unavailable) AS unavailable,
    sum(l.incomplete) AS incomplete, max(l.example) AS example, max(l.unresolved) AS unresolved
  FROM looks AS l LEFT JOIN shares AS s ON s.ns = coalesce(l.ns, 0) CROSS JOIN punctuality AS p
  GROUP BY l.ns
),
lines AS (
  SELECT
    NULL AS ns, 'all' AS name, true AS entered,
    -- A namespace of which one of the two is not known would spoil the share of all.
    CASE WHEN count(*) FILTER (WHERE seen IS NULL AND kernel IS NOT NULL) = 0 THEN sum(seen) END AS seen,
    CASE WHEN count(*) FILTER (WHERE kernel IS NULL AND seen IS NOT NULL) = 0 THEN sum(kernel) END AS kernel,
    sum(margin) AS margin, sum(proven) AS proven, sum(closes) AS closes, sum(lost) AS lost,
    min(p.samples) AS samples, min(p.late) AS late, min(p.skipped) AS skipped,
    sum(empty) AS empty, sum(rotated) AS rotated, sum(unavailable) AS unavailable, sum(incomplete) AS incomplete,
    max(example) AS example, max(unresolved) AS unresolved
  FROM summed CROSS JOIN punctuality AS p
  UNION ALL BY NAME
  SELECT s.* EXCLUDE (unresolved), n.name, n.entered
  FROM summed AS s LEFT JOIN named AS n USING (ns)
  WHERE s.ns IS NOT NULL
  UNION ALL BY NAME
  SELECT n.ns, n.name, n.entered, 0 AS samples
  FROM named AS n CROSS JOIN punctuality AS p
  WHERE NOT n.entered AND (n.valid_to IS NULL OR n.valid_to >= p.since)
    AND NOT EXISTS (SELECT 1 FROM looks WHERE looks.ns = n.ns)
),
shared AS (
  SELECT
    lines.*,
    CASE
      WHEN kernel = 0 AND seen > 0 THEN 100.0
      -- A margin of all that there was says nothing.
      WHEN seen < kernel AND proven = kernel AND margin >= kernel THEN NULL
      WHEN kernel > 0 AND seen IS NOT NULL THEN floor(10000.0 * CAST(proven AS DOUBLE) / kernel) / 100.0
    END AS share_percent,
    row_number() OVER (ORDER BY ns IS NOT NULL, kernel - proven DESC NULLS LAST, ns) AS place
  FROM lines CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top + 1
)
SELECT
  netns_of(ns) AS netns, name,
  nullif(
    concat_ws(
      ', ',
      CASE
        WHEN share_percent IS NOT NULL THEN concat('saw ', share_percent, ' % of connections')
        WHEN kernel = 0 AND seen = 0 THEN 'no connections'
        WHEN kernel > 0 AND seen IS NOT NULL THEN 'too few connections to tell'
        WHEN NOT entered THEN 'could not be entered'
      END,
      CASE WHEN lost > 0 THEN concat(CAST(lost AS BIGINT), ' announcements lost') END
    ),
    ''
  ) AS says,
  CAST(seen AS BIGINT) AS seen, CAST(kernel AS BIGINT) AS kernel, CAST(margin AS BIGINT) AS margin,
  CAST(share_percent AS DOUBLE) AS share_percent, CAST(closes AS BIGINT) AS closes, CAST(lost AS BIGINT) AS lost, samples,
  CAST(late AS BIGINT) AS late, CAST(skipped AS BIGINT) AS skipped, CAST(empty AS BIGINT) AS empty,
  CAST(rotated AS BIGINT) AS rotated, CAST(unavailable AS BIGINT) AS unavailable, CAST(incomplete AS BIGINT) AS incomplete,
  example, unresolved
FROM shared
ORDER BY place
