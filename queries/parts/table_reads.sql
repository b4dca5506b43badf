-- title = "When the kernel's tables were read, and whether whole"
-- description = """
-- One row per network namespace, table and sample of the scope. One step stands for all tables of a
-- namespace without sockets, or of one whose turn it was not. A file of sockets alone does not say
-- what was read: there every sample read everything.
-- """
-- uses = ["was_read"]
-- [columns]
-- ns = "Network namespace."
-- kind = "Table: tcp, udp, unix …"
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- t_us = "The same in microseconds UTC."
-- whole = "Whether the table was seen whole, of both families."
WITH kinds AS (
  SELECT unnest(['tcp', 'udp', 'udplite', 'mptcp', 'sctp', 'dccp', 'raw', 'ping', 'unix', 'packet',
    'netlink', 'vsock', 'xdp', 'tipc', 'smc']) AS kind
)
SELECT ns, kind, sample, min(sample_time) AS sample_time, min(t_us) AS t_us, bool_and(whole) AS whole
FROM (
  SELECT ns, rtrim(step, '6') AS kind, sample, sample_time, t_us, was_read(outcome) AS whole
  FROM samples
  WHERE rtrim(step, '6') IN (SELECT kind FROM kinds)
  UNION ALL
  SELECT s.ns, k.kind, s.sample, s.sample_time, s.t_us, was_read(s.outcome) AS whole
  FROM samples AS s CROSS JOIN kinds AS k
  WHERE s.step = 'all'
  UNION ALL
  SELECT a.ns, k.kind, a.sample, a.sample_time, a.t_us, true AS whole
  FROM (
    SELECT ns, sample, min(sample_time) AS sample_time, min(t_us) AS t_us
    FROM sockets
    WHERE NOT EXISTS (SELECT 1 FROM samples)
    GROUP BY ns, sample
  ) AS a
  CROSS JOIN kinds AS k
) AS steps
GROUP BY ns, kind, sample
