-- title = "What the kernel's counters grew by, change by change"
-- description = """
-- One row per change of a counter until the end of the scope. A value holds until the next change;
-- what grew between the last reading before the scope and its first counts, as for sockets. A change
-- before the scope has a growth of 0: it says that the counter is known. A counter that is new or
-- fell was made anew, and grew by 0.
-- """
-- [columns]
-- ns = "Network namespace."
-- source = "File: snmp, netstat …"
-- name = "Name as the file has it, the group before: Tcp.ActiveOpens."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- t_us = "The same in microseconds UTC."
-- growth = "What it grew by."
SELECT
  c.ns, c.source, c.name, c.sample, c.sample_time, epoch_us(c.sample_time) AS t_us,
  CASE
    WHEN p.from_us > epoch_us(c.sample_time) THEN 0
    ELSE greatest(c.value - lag(c.value) OVER counter_life, 0)
  END AS growth
FROM raw.counters AS c CROSS JOIN params AS p
WHERE p.to_us IS NULL OR c.sample_time < make_timestamp(p.to_us)
WINDOW counter_life AS (PARTITION BY c.ns, c.source, c.name ORDER BY c.sample, c.phase DESC, c.value NULLS FIRST)
