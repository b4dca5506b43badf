-- title = "CPU time of a look at a process within a span of time"
-- description = "In microseconds, of what it used since the look before as much as lies within."
-- uses = ["overlap_us"]
-- [arguments]
-- look = "Row of process_looks."
-- since_us = "Begin of the time."
-- until_us = "Its end."
1.0 * look.cpu_us * overlap_us(look.from_us, look.at_us, since_us, until_us) / nullif(look.at_us - look.from_us, 0)
