-- title = "The larger of two sums of memory"
-- description = "The second where the first is not known; nothing where the second is not."
-- [arguments]
-- one = "A number."
-- other = "The other."
CASE WHEN one > other THEN one ELSE other END
