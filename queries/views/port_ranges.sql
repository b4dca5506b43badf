-- title = "Ports that connections may take"
-- description = """
-- One row per network namespace: the range from which the kernel takes the local port of an outgoing
-- connection (net.ipv4.ip_local_port_range), as it was set last, and how many ports are left of it
-- without the reserved ones (net.ipv4.ip_local_reserved_ports). A namespace whose range was not
-- recorded, or is none, has no row.
-- """
-- uses = ["netns_of", "sysctls"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host."
-- netns = "Inode number of the network namespace."
-- low = "First port of the range."
-- high = "Last port of the range."
-- ports = "Ports in it that are not reserved."
WITH bounds AS (
  SELECT ns, TRY_CAST(split_part(value, ' ', 1) AS BIGINT) AS low, TRY_CAST(split_part(value, ' ', 2) AS BIGINT) AS high
  FROM sysctls
  WHERE name = 'net.ipv4.ip_local_port_range'
),
reserved AS (
  -- 8080,9000-9100 is two pieces.
  SELECT
    ns,
    TRY_CAST(split_part(piece, '-', 1) AS BIGINT) AS low,
    TRY_CAST(split_part(piece, '-', CASE WHEN piece LIKE '%-%' THEN 2 ELSE 1 END) AS BIGINT) AS high
  FROM (
    SELECT ns, unnest(string_split(value, ',')) AS piece
    FROM sysctls
    WHERE name = 'net.ipv4.ip_local_reserved_ports'
  ) AS pieces
)
SELECT
  b.ns, netns_of(b.ns) AS netns, b.low, b.high,
  CAST(
    b.high - b.low + 1
      - coalesce(sum(greatest(0, least(r.high, b.high) - greatest(r.low, b.low) + 1)) FILTER (WHERE r.low <= r.high), 0)
    AS BIGINT
  ) AS ports
FROM bounds AS b LEFT JOIN reserved AS r USING (ns)
WHERE b.low <= b.high AND b.high < 65536
GROUP BY b.ns, b.low, b.high
