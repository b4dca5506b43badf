-- title = "The slice that a moment is in"
-- description = "Microseconds from the begin of the whole to that of the slice."
-- [arguments]
-- t_us = "The moment."
-- start_us = "Begin of the whole."
-- wide_us = "Length of a slice."
(t_us - start_us) - (t_us - start_us) % wide_us
