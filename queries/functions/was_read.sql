-- title = "Whether a step saw all that there was"
-- description = "A table that the kernel counted as empty was not read, and yet is known."
-- [arguments]
-- outcome = "How the step went, of samples."
outcome IN ('ok', 'skipped_empty')
