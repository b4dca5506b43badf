-- title = "Several processes of one name as people call them"
-- description = "nginx (pid 7) of one; nginx (pids 7, 8, 9 and 4 more) of several, nothing without a name."
-- uses = ["who"]
-- [arguments]
-- comm = "Name of the processes."
-- pids = "List of their numbers, each once."
CASE
  WHEN coalesce(len(pids), 0) < 2 THEN who(comm, pids[1])
  ELSE concat(
    comm, ' (pids ', array_to_string(pids[1:3], ', '), CASE WHEN len(pids) > 3 THEN concat(' and ', len(pids) - 3, ' more') END, ')'
  )
END
