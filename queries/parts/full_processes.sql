-- title = "Processes that had no descriptor left"
-- description = """
-- All of their limit was in use. Where the recording does not tell how many they had open: the kernel
-- gives the lowest number that is free, so who was given the last number that its limit allows had all
-- below it in use then, files and pipes too. One row per process whose limit is known.
-- """
-- uses = ["fd_limits", "process_looks"]
-- [columns]
-- pid = "Process."
-- start_us = "Its start after boot."
-- fd_limit = "Its limit, all of which was in use."
-- since = "First sample that showed it so."
-- until = "Last one that did."
SELECT pid, start_us, max(fd_limit) AS fd_limit, make_timestamp(min(at_us)) AS since, make_timestamp(max(until_us)) AS until
FROM process_looks
WHERE fds >= fd_limit
GROUP BY pid, start_us
UNION ALL
SELECT s.pid, s.start_us, l.fd_limit, min(s.sample_time) AS since, max(s.sample_time) AS until
FROM sockets AS s JOIN fd_limits AS l ON l.pid = s.pid AND l.start_us = s.start_us AND s.fd >= l.fd_limit - 1
WHERE NOT EXISTS (SELECT 1 FROM process_looks AS p WHERE p.pid = s.pid AND p.start_us = s.start_us AND p.fds IS NOT NULL)
GROUP BY s.pid, s.start_us, l.fd_limit
