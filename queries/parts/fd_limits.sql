-- title = "How many descriptors each process may have"
-- description = "One row per process whose limit is known."
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- fd_limit = "Its limit, the last one known."
SELECT pid, start_us, max_by(fd_limit, t_us) AS fd_limit
FROM owners
WHERE fd_limit > 0
GROUP BY pid, start_us
