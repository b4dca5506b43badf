-- title = "Orphans by the kernel's own count"
-- description = "One row per sample: each namespace shows the number of the whole host."
-- uses = ["counter_values"]
-- [columns]
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- t_us = "The same in microseconds UTC."
-- orphans = "TCP connections that no process holds any more."
SELECT sample, min(sample_time) AS sample_time, min(t_us) AS t_us, max(value) AS orphans
FROM counter_values
WHERE source = 'sockstat' AND name = 'TCP.orphan'
GROUP BY sample
