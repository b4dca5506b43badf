-- title = "How much of one span of time lies in another"
-- description = "In microseconds; 0 if none does."
-- [arguments]
-- begin_us = "Begin of the one."
-- end_us = "Its end."
-- since_us = "Begin of the other."
-- until_us = "Its end."
greatest(0, least(end_us, until_us) - greatest(begin_us, since_us))
