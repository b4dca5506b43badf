-- title = "How many descriptors each process has open, sample by sample"
-- description = """
-- One row per process and sample that showed a socket of it. All its descriptors, if they are known in
-- half of its samples at least; else its sockets, in all of them, as the two are no series. Before a
-- look they are as many as at that, if it is in the next sample.
-- """
-- uses = ["process_looks"]
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- t_us = "The same in microseconds."
-- sockets = "Sockets that take a descriptor of it."
-- descriptors = "All its descriptors, nothing where the recording does not tell; or as many as sockets."
-- all_known = "Whether all of them are counted, in each of its samples."
SELECT
  pid, start_us, sample, sample_time, t_us, sockets,
  2 * count(fds) OVER life >= count(*) OVER life AS all_known,
  CASE
    WHEN NOT all_known THEN sockets
    WHEN coalesce(fds, lead(fds) OVER in_turn) IS NOT NULL THEN greatest(coalesce(fds, lead(fds) OVER in_turn), sockets)
  END AS descriptors
FROM (
  SELECT c.*, l.fds
  FROM (
    SELECT pid, coalesce(start_us, -1) AS start_us, sample, min(sample_time) AS sample_time, min(t_us) AS t_us, count(*) AS sockets
    FROM sockets
    WHERE pid IS NOT NULL
      AND coalesce(owner_by, 'fd') NOT IN ('carried', 'listener')
      AND (NOT coalesce(subflow, false) OR NOT EXISTS (SELECT 1 FROM sockets WHERE netid = 'mptcp'))
    GROUP BY pid, coalesce(start_us, -1), sample
  ) AS c
  ASOF LEFT JOIN process_looks AS l ON l.pid = c.pid AND l.start_us = c.start_us AND l.at_us <= c.t_us
) AS looked
WINDOW life AS (PARTITION BY pid, start_us), in_turn AS (PARTITION BY pid, start_us ORDER BY sample)
