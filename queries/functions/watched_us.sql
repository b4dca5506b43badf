-- title = "How much of a time the looks at a process cover"
-- description = """
-- In microseconds: an aggregate over the rows of process_looks of one process that have to do with that
-- time. Who connects before a recording begins waits from then on, but nobody looked.
-- """
-- [arguments]
-- look = "Row of process_looks."
-- since_us = "Begin of the time, in microseconds UTC."
-- until_us = "Its end."
max(until_us) - greatest(min(since_us), min(coalesce(look.from_us, look.at_us)))
