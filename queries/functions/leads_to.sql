-- title = "The other end of an interface as a sentence names it"
-- description = "Nothing where that is not known."
-- [arguments]
-- dev = "Name of the other end."
-- called = "What its network namespace is called."
' (which leads to ' || dev || ' of ' || called || ')'
