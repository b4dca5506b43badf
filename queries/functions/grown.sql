-- title = "By how much a counter grew"
-- description = "Nothing if it fell, as a kernel's does that cleared it, or one of both is not known."
-- [arguments]
-- value = "The counter."
-- former = "The counter before."
nullif(greatest(value - former, -1), -1)
