-- title = "Ports that connections may take"
-- description = """
-- One row per network namespace: the range from which the kernel takes the local port of an outgoing
-- connection (net.ipv4.ip_local_port_range), as it was set last, and how many ports are left of it
-- without the reserved ones (net.ipv4.ip_local_reserved_ports). A namespace whose range was not
-- recorded, or is none, has no row.
-- """
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- low = "First port of the range."
-- high = "Last port of the range."
-- ports = "Ports in it that are not reserved."
WITH digits AS (
  SELECT digit
  FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS given (digit)
),
bounds AS (
  SELECT netns, low, high
  FROM (
    SELECT
      netns,
      TRY_CAST(split_part(max_by(value, sample), ' ', 1) AS BIGINT) AS low,
      TRY_CAST(split_part(max_by(value, sample), ' ', 2) AS BIGINT) AS high
    FROM settings
    WHERE name = 'net.ipv4.ip_local_port_range'
    GROUP BY netns
  ) AS told
  WHERE low <= high AND high < 65536
),
reserved AS (
  -- 8080,9000-9100 is two pieces.
  SELECT
    netns,
    TRY_CAST(split_part(piece, '-', 1) AS BIGINT) AS low,
    TRY_CAST(split_part(piece, '-', CASE WHEN piece LIKE '%-%' THEN 2 ELSE 1 END) AS BIGINT) AS high
  FROM (
    SELECT
      s.netns,
      split_part(s.value, ',', 1 + a.digit + 10 * b.digit + 100 * c.digit) AS piece
    FROM (
      SELECT netns, max_by(value, sample) AS value
      FROM settings
      WHERE name = 'net.ipv4.ip_local_reserved_ports'
      GROUP BY netns
    ) AS s
    CROSS JOIN digits AS a
    CROSS JOIN digits AS b
    CROSS JOIN digits AS c
  ) AS pieces
  WHERE piece <> ''
)
SELECT
  b.netns,
  b.low,
  b.high,
  CAST(
    b.high - b.low + 1 - coalesce(
      sum(
        CASE
          WHEN r.low > b.high OR r.high < b.low THEN 0
          ELSE CASE WHEN r.high > b.high THEN b.high ELSE r.high END
            - CASE WHEN r.low < b.low THEN b.low ELSE r.low END + 1
        END
      ), 0
    ) AS BIGINT
  ) AS ports
FROM bounds AS b
LEFT JOIN reserved AS r
  ON r.netns = b.netns
GROUP BY b.netns, b.low, b.high
