-- title = "How many descriptors each process may have"
-- description = "One row per process whose limit is known."
-- uses = ["process_looks"]
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- fd_limit = "Its limit, the last one known."
SELECT pid, start_us, max_by(fd_limit, t_us) AS fd_limit
FROM (
  SELECT pid, start_us, fd_limit, t_us FROM owners
  UNION ALL
  SELECT pid, start_us, fd_limit, at_us FROM process_looks
) AS known
WHERE fd_limit > 0
GROUP BY pid, start_us
