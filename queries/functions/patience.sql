-- title = "How long a standstill must last to be told"
-- description = "In microseconds: so many seconds, or so many intervals if that is longer."
-- [arguments]
-- seconds = "Seconds."
-- intervals = "Sampling intervals."
-- interval_us = "Length of one."
greatest(1000000.0 * seconds, intervals * interval_us)
