-- title = "When TCP was last read whole before a process ended"
-- description = """
-- One row per network namespace and process that ended while it was recorded, if it had lived for ten
-- seconds: what it held then it never gave back, whether it died in the last sample or long before.
-- """
-- uses = ["tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- pid = "Process."
-- start_us = "Its start after boot."
-- sample = "The last sample before it was gone that read TCP whole."
WITH ended AS (
  SELECT pid, start_us, max(sample) AS sample
  FROM owners
  WHERE valid_to IS NOT NULL
  GROUP BY pid, start_us
  HAVING arg_max_null(valid_to, valid_from) IS NOT NULL AND max(valid_to) - min(valid_from) >= INTERVAL 10 SECONDS
)
SELECT e.ns, e.pid, e.start_us, r.sample
FROM (SELECT n.ns, ended.* FROM ended CROSS JOIN (SELECT DISTINCT ns FROM tcp_reads) AS n) AS e
ASOF JOIN tcp_reads AS r ON r.ns = e.ns AND e.sample > r.sample
