-- title = "How many orphans the kernel keeps"
-- description = "One row; net.ipv4.tcp_max_orphans is of the whole host, and shown in its first namespace only."
-- uses = ["sysctls"]
-- [columns]
-- most = "So many; nothing if it was not recorded."
SELECT max(TRY_CAST(value AS BIGINT)) AS most
FROM sysctls
WHERE name = 'net.ipv4.tcp_max_orphans'
