-- title = "Queues of interfaces, each as a whole"
-- description = "One row per queue: what it sent and dropped, and how long something waited in it without a break."
-- uses = ["qdisc_steps"]
-- [columns]
-- drops = "Packets that it dropped."
-- backlog_peak = "Most bytes that waited at a look."
-- stood_us = "Longest time in which something waited at every look."
-- stood_since_us = "When that began."
-- stood_bytes = "What it sent meanwhile."
WITH spells AS (
  SELECT
    ns, ifindex, handle, parent, spell, min(at_us) AS since_us, max(until_us) AS until_us, max(backlog) AS backlog,
    -- What it sent before the first of them is not of the spell.
    coalesce(sum(bytes), 0) - coalesce(first(bytes ORDER BY at_us), 0) AS bytes, max(at_us) - min(at_us) AS measured_us
  FROM qdisc_steps
  WHERE backlog > 0
  GROUP BY ns, ifindex, handle, parent, spell
),
longest AS (
  SELECT *, until_us - since_us AS stood_us
  FROM spells
  QUALIFY row_number() OVER (PARTITION BY ns, ifindex, handle, parent ORDER BY until_us - since_us DESC, since_us) = 1
)
SELECT
  q.ns, q.ifindex, q.handle, q.parent, max_by(q.dev, q.at_us) AS dev, max_by(q.kind, q.at_us) FILTER (WHERE q.kind IS NOT NULL) AS kind,
  CAST(coalesce(sum(q.packets), 0) AS BIGINT) AS packets, CAST(coalesce(sum(q.drops), 0) AS BIGINT) AS drops,
  CAST(coalesce(sum(q.overlimits), 0) AS BIGINT) AS overlimits, max(q.backlog) AS backlog_peak, max(q.qlen) AS qlen_peak,
  min(q.at_us) FILTER (WHERE q.drops > 0) AS drops_since_us, max(q.at_us) FILTER (WHERE q.drops > 0) AS drops_until_us,
  any_value(l.stood_us) AS stood_us, any_value(l.since_us) AS stood_since_us, any_value(l.until_us) AS stood_until_us,
  any_value(l.bytes) AS stood_bytes, any_value(l.measured_us) AS stood_measured_us
FROM qdisc_steps AS q LEFT JOIN longest AS l USING (ns, ifindex, handle, parent)
GROUP BY q.ns, q.ifindex, q.handle, q.parent
