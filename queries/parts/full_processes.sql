-- title = "Processes that had no descriptor left"
-- description = """
-- The kernel gives the lowest number that is free: who was given the last number that its limit allows
-- had all below it in use then, files and pipes too. One row per process whose limit is known.
-- """
-- uses = ["fd_limits"]
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- fd_limit = "Its limit, all of which was in use."
-- since = "First sample that showed a socket of the last number."
-- until = "Last one that did."
SELECT s.pid, s.start_us, l.fd_limit, min(s.sample_time) AS since, max(s.sample_time) AS until
FROM sockets AS s JOIN fd_limits AS l ON l.pid = s.pid AND l.start_us = s.start_us AND s.fd >= l.fd_limit - 1
GROUP BY s.pid, s.start_us, l.fd_limit
