-- title = "Where ports in TIME-WAIT may be taken again"
-- description = "Which a connection to the same service does after a second, if both ends use timestamps."
-- uses = ["sysctls"]
-- [columns]
-- ns = "Network namespace."
-- reuse = "0 nowhere, 1 everywhere, 2 over loopback; nothing if it was not recorded."
SELECT
  ns,
  CASE
    WHEN max(value) FILTER (WHERE name = 'net.ipv4.tcp_timestamps') = '0' THEN '0'
    ELSE max(value) FILTER (WHERE name = 'net.ipv4.tcp_tw_reuse')
  END AS reuse
FROM sysctls
WHERE name IN ('net.ipv4.tcp_tw_reuse', 'net.ipv4.tcp_timestamps')
GROUP BY ns
