-- title = "Limits of the memory of sockets"
-- description = "One row per kind, of the whole host, in pages of 4096 bytes: shown in its first namespace only."
-- uses = ["sysctls"]
-- [columns]
-- kind = "tcp or udp."
-- pressure = "Above it the kernel saves: the second value of tcp_mem or udp_mem."
-- high = "The third value, which is never passed."
SELECT
  CASE WHEN name = 'net.ipv4.tcp_mem' THEN 'tcp' ELSE 'udp' END AS kind,
  4096 * max(TRY_CAST(split_part(value, ' ', 2) AS BIGINT)) AS pressure,
  4096 * max(TRY_CAST(split_part(value, ' ', 3) AS BIGINT)) AS high
FROM sysctls
WHERE name IN ('net.ipv4.tcp_mem', 'net.ipv4.udp_mem')
GROUP BY name
