-- title = "What all rows of a group have in common"
-- description = "An aggregate: the one value there is, nothing if there are several or none."
-- [arguments]
-- value = "The value; rows without one do not count."
CASE WHEN min(value) = max(value) THEN min(value) END
