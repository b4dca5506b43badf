-- title = "Who most of many sockets belong to, as people call it"
-- description = """
-- The processes of one name if most are theirs, or if no other name was seen there: that is a guess,
-- and said to be one.
-- """
-- uses = ["who_all"]
-- [arguments]
-- comm = "Name of the processes that have most."
-- pids = "List of their numbers, each once."
-- candidates = "How many names were seen."
-- has_most = "Whether more than half of the sockets are theirs."
-- otherwise = "What is known of who it is if no name was seen; nothing if nothing is."
CASE
  WHEN comm IS NULL THEN coalesce(otherwise, 'an unknown process')
  WHEN candidates > 1 AND NOT has_most THEN 'an unknown process'
  ELSE concat(
    who_all(comm, pids),
    CASE WHEN NOT has_most THEN ', the only one seen connected there,' END
  )
END
