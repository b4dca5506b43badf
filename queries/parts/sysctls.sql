-- title = "The settings as they were made last"
-- description = "One row per network namespace and name."
-- [columns]
-- ns = "Network namespace."
-- name = "Name: net.ipv4.tcp_mem."
-- value = "The value, as text."
SELECT ns, name, max_by(value, sample) AS value
FROM settings
GROUP BY ns, name
