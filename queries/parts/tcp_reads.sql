-- title = "When TCP was read whole"
-- description = "One row per network namespace and sample of the scope that saw the whole table."
-- uses = ["table_reads"]
-- [columns]
-- ns = "Network namespace."
-- sample = "Number of the sample."
SELECT ns, sample, sample_time, t_us
FROM table_reads
WHERE kind = 'tcp' AND whole
