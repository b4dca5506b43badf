-- title = "What queues of interfaces counted, from look to look"
-- description = "One row for each row of qdiscs, as interface_steps has those of interfaces."
-- uses = ["grown"]
-- [columns]
-- from_us = "Look before it, in microseconds UTC."
-- at_us = "The look."
-- until_us = "Last look that found it the same."
-- spell = "The same number for looks in a row that found something waiting, or nothing."
WITH told AS (
  SELECT
    q.*, epoch_us(since) AS from_us, epoch_us(sample_time) AS at_us, lead(epoch_us(since)) OVER life AS next_us,
    CASE WHEN epoch_us(sample_time) >= p.from_us OR p.from_us IS NULL THEN lag(q) OVER life END AS former,
    count(*) FILTER (WHERE backlog = 0) OVER life AS spell
  FROM raw.qdiscs AS q CROSS JOIN params AS p
  WHERE p.to_us IS NULL OR epoch_us(sample_time) < p.to_us
  WINDOW life AS (PARTITION BY ns, ifindex, handle, parent ORDER BY sample)
)
SELECT
  t.ns, t.ifindex, t.dev, t.handle, t.parent, t.kind, t.sample, t.from_us, t.at_us, t.spell, t.backlog, t.qlen,
  greatest(t.at_us, coalesce(t.next_us, l.last_us)) AS until_us,
  grown(t.bytes, t.former.bytes) AS bytes, grown(t.packets, t.former.packets) AS packets, grown(t.drops, t.former.drops) AS drops,
  grown(t.overlimits, t.former.overlimits) AS overlimits, grown(t.requeues, t.former.requeues) AS requeues
FROM told AS t
CROSS JOIN (SELECT max(t_us) AS last_us FROM samples WHERE step = 'network') AS l
CROSS JOIN params AS p
WHERE p.from_us IS NULL OR coalesce(t.next_us, l.last_us) >= p.from_us OR t.at_us >= p.from_us
