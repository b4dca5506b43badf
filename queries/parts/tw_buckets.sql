-- title = "How many sockets may be in TIME-WAIT"
-- description = "net.ipv4.tcp_max_tw_buckets, as it was set last."
-- uses = ["sysctls"]
-- [columns]
-- ns = "Network namespace."
-- most = "So many; above it the kernel drops them before their time."
SELECT ns, TRY_CAST(value AS BIGINT) AS most
FROM sysctls
WHERE name = 'net.ipv4.tcp_max_tw_buckets'
