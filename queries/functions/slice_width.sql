-- title = "How long a slice of the time is"
-- description = "Equal slices, in microseconds: of so many seconds, or ten of the whole."
-- [arguments]
-- start_us = "Begin of the whole."
-- end_us = "Its end."
-- seconds = "Seconds in a slice; 0 makes ten slices."
CASE
  WHEN seconds > 0 THEN CAST(seconds * 1000000 AS BIGINT)
  ELSE CAST(floor((end_us - start_us) / 10.0) AS BIGINT) + 1
END
