-- title = "The other end of an interface as a sentence names it"
-- description = "Nothing where that is not known."
-- [arguments]
-- dev = "Name of the other end."
-- tag = "Name or number of its network namespace."
' (which leads to ' || dev || ' of ' || tag || ')'
