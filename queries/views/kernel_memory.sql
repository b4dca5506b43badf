-- title = "Memory of sockets by the kernel's own count"
-- description = "One row per sample and kind: each namespace shows the number of the whole host."
-- uses = ["counter_values"]
-- [columns]
-- kind = "tcp or udp."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- bytes = "TCP.mem or UDP.mem of sockstat, in pages of 4096 bytes."
SELECT
  CASE WHEN name = 'TCP.mem' THEN 'tcp' ELSE 'udp' END AS kind, sample, min(sample_time) AS sample_time, 4096 * max(value) AS bytes
FROM counter_values
WHERE source = 'sockstat' AND name IN ('TCP.mem', 'UDP.mem')
GROUP BY name, sample
