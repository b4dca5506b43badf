-- title = "By how much a value grows for each step of another"
-- description = "By least squares, over the rows of a group; nothing where it has less than two places."
-- [arguments]
-- value = "What grows."
-- place = "Where it was so much, a time for example."
CASE WHEN regr_sxx(value, place) > 0 THEN regr_slope(value, place) END
