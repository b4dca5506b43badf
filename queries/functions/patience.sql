-- title = "How long a standstill must last to be told"
-- description = "In microseconds: so many seconds, or so many intervals if that is longer, less half a one, as no sample is begun on the dot."
-- [arguments]
-- seconds = "Seconds."
-- intervals = "Sampling intervals."
-- interval_us = "Length of one."
greatest(1000000.0 * seconds, (intervals - 0.5) * interval_us)
