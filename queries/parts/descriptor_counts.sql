-- title = "How many descriptors each process has open, sample by sample"
-- description = """
-- One row per process and sample that showed a socket of it. Before the first look at the process they
-- are as many as at that; if there is none in the recording, the sockets are all that is known.
-- """
-- uses = ["process_counts", "process_looks"]
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- t_us = "The same in microseconds."
-- sockets = "Sockets that take a descriptor of it."
-- descriptors = "All its descriptors, else as many as sockets."
-- all_known = "Whether it is all of them."
SELECT
  c.pid, c.start_us, c.sample, c.sample_time, c.t_us, c.sockets, coalesce(l.fds, k.fds, c.sockets) AS descriptors,
  k.fds IS NOT NULL AS all_known
FROM (
  SELECT holder AS pid, start_us, sample, min(sample_time) AS sample_time, min(t_us) AS t_us, CAST(sum(sockets) AS BIGINT) AS sockets
  FROM process_counts
  WHERE owner = 'process'
  GROUP BY holder, start_us, sample
) AS c
LEFT JOIN (SELECT pid, start_us, min_by(fds, at_us) AS fds FROM process_looks GROUP BY pid, start_us) AS k USING (pid, start_us)
ASOF LEFT JOIN process_looks AS l ON l.pid = c.pid AND l.start_us = c.start_us AND l.at_us <= c.t_us
