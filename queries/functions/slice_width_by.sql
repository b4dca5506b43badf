-- title = "How long a slice of the time is, where rows may be slices"
-- description = "One slice for all unless rows are slices of the time, in microseconds."
-- uses = ["slice_width"]
-- [arguments]
-- kind = "What a row is: time, or anything else."
-- start_us = "Begin of the whole."
-- end_us = "Its end."
-- seconds = "Seconds in a slice; 0 makes ten slices."
CASE WHEN kind <> 'time' THEN end_us - start_us + 1 ELSE slice_width(start_us, end_us, seconds) END
