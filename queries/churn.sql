-- title = "Connections opened, closed, reset and failed over time"
-- description = """
-- Who opens and closes connections, how fast, and how long they live. The totals of the whole time
-- come first, of all and of those who opened and closed most; then the same over time, slice by
-- slice. Beside all stands what the kernel counted, and how much of that this recording saw.
-- Hundreds a second with a lifetime below one second is a client without keep-alive or a pool:
-- short_lived says which and what to do, time_wait what it leaves behind. A reset is a close without
-- a FIN; a short attempt that was refused looks the same, as the kernel has cleared what would tell
-- them apart. Failed attempts got no answer: look at the peer with by=peer, and at listen_queues on
-- the host that listens. A connection over loopback counts at both of its ends, as it does in the
-- kernel. One too short for its process to be found counts with the only process that was seen to
-- use the same service, else as unknown. A lifetime is known within bounds, as a connection is seen
-- at samples and when it ends: the truth lies between least and most. Connections that were open at
-- the first sample have no lifetime, nor those of which TIME-WAIT is all that is known. Without the
-- kernel's announcements (closes) a connection that lived between two samples is known only if it
-- left TIME-WAIT: opened and closed are lower bounds then, and lifetimes are those of what samples
-- showed. A slice in which the kernel's table was never read has no numbers.
-- """
-- needs = ["tcp", "closes", "counters"]
-- uses = [
--   "counter_steps", "counter_values", "endpoint", "netns_of", "process", "services", "slice_of",
--   "slice_width", "the_only", "was_read",
-- ]
-- ranks = [
--   "time", "who", "opened", "closed", "opened_per_s", "resets", "failed", "coverage_percent", "short_percent", "peer_resets",
--   "p50_most_us", "p95_most_us",
-- ]
--
-- [columns]
-- time = "Begin of the slice: its first sample, UTC; empty in the totals of the whole time."
-- who = "all, or one process, listening address and port (* is several addresses) or peer, as by says."
-- opened = "Connections opened, failed attempts left out."
-- closed = "Connections closed: where nothing announced the end, when a sample showed TIME-WAIT first, or in the slice in which it was last seen."
-- resets = "Those of closed that this end reset, or closed with data unread, or that the peer reset before it had acknowledged all; attempts that were refused between two samples, too."
-- peer_resets = "Those of resets that the peer reset, or had closed before this end sent: what it sent is lost."
-- failed = "Attempts that never got open, as far as samples showed them."
-- opened_per_s = "opened in a second."
-- short_percent = "Share of those of closed with a known bound that lived shorter than the parameter seconds for certain; empty if none has one."
-- p50_least_us = "Median lifetime of closed: at least so long."
-- p50_most_us = "Median lifetime of closed: at most so long."
-- p95_least_us = "The lifetime that 95 % of closed did not pass: at least so long."
-- p95_most_us = "The same: at most so long."
-- kernel_failed = "Growth of Tcp.AttemptFails; only all has it."
-- kernel_resets = "Growth of Tcp.EstabResets, both ends and those that the peer reset; only all has it."
-- coverage_percent = "Share of the TCP connections that the kernel counted which this recording saw, whatever --where chose; only all has it, where the kernel counted 20 at least."
-- netns = "Inode number of the network namespace; of all only if it is one."
--
-- [params.by]
-- type = "VARCHAR"
-- default = "process"
-- choices = ["process", "listener", "peer"]
-- doc = "process, listener (outgoing: the connections of no listener) or peer."
--
-- [params.interval]
-- type = "DOUBLE"
-- default = 0.0
-- doc = "Seconds in a slice; 0 makes ten slices of the whole time."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 1.0
-- doc = "Connections that lived less are short."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many series are listed beside all; 0 lists every one."
--
-- [chart]
-- mark = "line"
-- x = { field = "time", type = "temporal", bin = "binned" }
-- y = { field = "opened_per_s", type = "quantitative" }
-- color = { field = "who" }
WITH named AS (
  SELECT
    CASE params.by
      WHEN 'listener' THEN
        CASE s.role
          WHEN 'server' THEN endpoint(CASE WHEN s.least_addr < s.most_addr THEN '*' ELSE s.local_addr END, s.local_port)
          WHEN 'client' THEN 'outgoing'
          ELSE 'unknown'
        END
      WHEN 'peer' THEN
        CASE
          WHEN s.peer_addr IS NULL THEN 'unknown'
          WHEN s.role = 'client' THEN 'to ' || endpoint(s.peer_addr, s.peer_port)
          WHEN s.role = 'server' THEN 'from ' || s.peer_addr
          ELSE s.peer_addr
        END
      ELSE coalesce(process(s.user_comm, s.user_pid), 'unknown')
    END AS who,
    s.ns, s.opened, s.reset_by, s.attempt, s.first_us, s.first_time, s.closed_us, s.last_time, s.duration_us, s.duration_max_us
  FROM services AS s CROSS JOIN params
),
events AS (
  SELECT
    ns, who, first_us AS t_us, first_time AS time, 'opened' AS event, NULL AS reset_by, NULL AS least_us, NULL AS most_us
  FROM named
  WHERE opened = 'during' AND attempt IS NULL
  UNION ALL
  SELECT
    ns, who, closed_us AS t_us, last_time AS time, CASE WHEN attempt = 'failed' THEN 'failed' ELSE 'closed' END AS event,
    reset_by, duration_us AS least_us, duration_max_us AS most_us
  FROM named
  WHERE closed_us IS NOT NULL
),
moments AS (
  SELECT
    sample, min(t_us) AS t_us, min(sample_time) AS time,
    bool_or(step IN ('tcp', 'all') AND was_read(outcome)) AS seen
  FROM samples
  GROUP BY sample
  UNION ALL
  -- A file of one table alone does not say what was read.
  SELECT sample, min(t_us) AS t_us, min(sample_time) AS time, true AS seen
  FROM sockets
  WHERE NOT EXISTS (SELECT 1 FROM samples)
  GROUP BY sample
  UNION ALL
  SELECT sample, min(t_us) AS t_us, min(time) AS time, true AS seen
  FROM closes
  WHERE NOT EXISTS (SELECT 1 FROM samples) AND NOT EXISTS (SELECT 1 FROM sockets)
  GROUP BY sample
),
slicing AS (
  SELECT min(t_us) AS start_us, max(t_us) AS end_us, slice_width(min(t_us), max(t_us), any_value(params.interval)) AS wide_us
  FROM moments CROSS JOIN params
),
sliced AS (
  -- What the kernel announced after the last sample was begun belongs to that sample.
  SELECT e.*, slice_of(greatest(s.start_us, least(e.t_us, s.end_us)), s.start_us, s.wide_us) AS slice
  FROM events AS e CROSS JOIN slicing AS s
),
looks AS (
  SELECT m.*, slice_of(m.t_us, s.start_us, s.wide_us) AS slice
  FROM moments AS m CROSS JOIN slicing AS s
),
slices AS (
  SELECT slice, min(time) AS time, bool_or(seen) AS seen
  FROM (
    SELECT slice, time, seen FROM looks
    UNION ALL
    SELECT slice, time, false AS seen FROM sliced
  ) AS both_kinds
  GROUP BY slice
  UNION ALL
  -- The whole time, of which the totals are.
  SELECT NULL AS slice, NULL AS time, bool_or(seen) AS seen
  FROM looks
  HAVING count(*) > 0
),
counted AS (
  SELECT
    ns, who, slice,
    count(*) FILTER (WHERE event = 'opened') AS opened,
    count(*) FILTER (WHERE event = 'closed') AS closed,
    count(*) FILTER (WHERE event = 'closed' AND reset_by IS NOT NULL) AS resets,
    count(*) FILTER (WHERE event = 'closed' AND reset_by = 'peer') AS peer_resets,
    count(*) FILTER (WHERE event = 'failed') AS failed,
    count(most_us) FILTER (WHERE event = 'closed') AS bounded,
    count(*) FILTER (WHERE event = 'closed' AND most_us < params.seconds * 1000000) AS short,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY CASE WHEN event = 'closed' THEN least_us END) AS p50_least_us,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY CASE WHEN event = 'closed' THEN most_us END) AS p50_most_us,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY CASE WHEN event = 'closed' THEN least_us END) AS p95_least_us,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY CASE WHEN event = 'closed' THEN most_us END) AS p95_most_us
  FROM (
    SELECT ns, who, slice, event, reset_by, least_us, most_us FROM sliced
    UNION ALL
    SELECT NULL AS ns, 'all' AS who, slice, event, reset_by, least_us, most_us FROM sliced
  ) AS twice
  CROSS JOIN params
  GROUP BY GROUPING SETS ((ns, who, slice), (ns, who))
),
series AS (
  SELECT ns, who, row_number() OVER (ORDER BY sum(opened + closed + failed) DESC, who, ns) AS place
  FROM counted
  WHERE ns IS NOT NULL AND slice IS NULL
  GROUP BY ns, who
  UNION ALL
  SELECT NULL AS ns, 'all' AS who, 0 AS place
),
openings AS (
  SELECT
    ns, sample,
    sum(growth) FILTER (WHERE name IN ('Tcp.ActiveOpens', 'Tcp.PassiveOpens')) AS opens,
    sum(growth) FILTER (WHERE name = 'Tcp.AttemptFails') AS failed,
    sum(growth) FILTER (WHERE name = 'Tcp.EstabResets') AS resets
  FROM (
    SELECT ns, sample, name, growth FROM counter_steps
    UNION ALL
    -- A counter that stands still is known, too.
    SELECT ns, sample, name, 0 AS growth FROM counter_values
  ) AS steps
  WHERE name IN ('Tcp.ActiveOpens', 'Tcp.PassiveOpens', 'Tcp.AttemptFails', 'Tcp.EstabResets')
  GROUP BY ns, sample
),
kernel AS (
  SELECT
    looks.slice, CAST(sum(openings.failed) AS BIGINT) AS failed, CAST(sum(openings.resets) AS BIGINT) AS resets,
    sum(openings.opens) FILTER (WHERE met.opened IS NOT NULL) AS opens, sum(met.opened) FILTER (WHERE openings.opens IS NOT NULL) AS met
  FROM openings
  JOIN looks USING (sample)
  LEFT JOIN (
    SELECT ns, sample, sum(opened) AS opened
    FROM samples
    WHERE step IN ('tcp', 'closes')
    GROUP BY ns, sample
  ) AS met ON met.ns = openings.ns AND met.sample = openings.sample
  GROUP BY GROUPING SETS ((looks.slice), ())
)
SELECT
  slices.time, series.who,
  CASE WHEN slices.seen THEN coalesce(c.opened, 0) ELSE c.opened END AS opened,
  CASE WHEN slices.seen THEN coalesce(c.closed, 0) ELSE c.closed END AS closed,
  CASE WHEN slices.seen THEN coalesce(c.resets, 0) ELSE c.resets END AS resets,
  CASE WHEN slices.seen THEN coalesce(c.peer_resets, 0) ELSE c.peer_resets END AS peer_resets,
  CASE WHEN slices.seen THEN coalesce(c.failed, 0) ELSE c.failed END AS failed,
  round(
    1000000.0 * CASE WHEN slices.seen THEN coalesce(c.opened, 0) ELSE c.opened END
      / nullif(
        CASE
          WHEN slices.slice IS NULL THEN slicing.end_us - slicing.start_us
          ELSE least(slicing.end_us - slicing.start_us - slices.slice, slicing.wide_us)
        END,
        0
      ),
    1
  ) AS opened_per_s,
  round(100.0 * c.short / nullif(c.bounded, 0), 1) AS short_percent,
  CAST(c.p50_least_us AS BIGINT) AS p50_least_us, CAST(c.p50_most_us AS BIGINT) AS p50_most_us,
  CAST(c.p95_least_us AS BIGINT) AS p95_least_us, CAST(c.p95_most_us AS BIGINT) AS p95_most_us,
  CASE WHEN series.place = 0 THEN kernel.failed END AS kernel_failed,
  CASE WHEN series.place = 0 THEN kernel.resets END AS kernel_resets,
  CASE
    -- Each is read at its own moment: one that falls into the next slice is much of a few.
    WHEN series.place > 0 OR kernel.opens < 20 THEN NULL
    -- Announcements may come a sample late: then a slice sees more than the kernel counted in it.
    WHEN kernel.met >= kernel.opens THEN 100.0
    ELSE floor(1000.0 * kernel.met / kernel.opens) / 10.0
  END AS coverage_percent,
  netns_of(CASE WHEN series.place > 0 THEN series.ns ELSE places.ns END) AS netns
FROM series
CROSS JOIN params
CROSS JOIN slices
CROSS JOIN slicing
CROSS JOIN (SELECT the_only(ns) AS ns FROM events) AS places
LEFT JOIN counted AS c ON c.who = series.who AND c.ns IS NOT DISTINCT FROM series.ns AND c.slice IS NOT DISTINCT FROM slices.slice
LEFT JOIN kernel ON kernel.slice IS NOT DISTINCT FROM slices.slice
WHERE params.top = 0 OR series.place <= params.top
ORDER BY slices.slice IS NOT NULL, series.place, slices.slice
