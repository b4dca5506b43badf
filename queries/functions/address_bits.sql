-- title = "An address as hexadecimal digits"
-- description = """
-- 8 digits for IPv4, 32 for IPv6: texts of one length order as the addresses do, so that a network
-- is what lies between its first and its last. What is no address gives nothing, or any digits.
-- """
-- [arguments]
-- addr = "Address of either family."
CASE
  WHEN addr NOT LIKE '%:%' THEN format(
    '{:02x}{:02x}{:02x}{:02x}',
    TRY_CAST(split_part(addr, '.', 1) AS UTINYINT),
    TRY_CAST(split_part(addr, '.', 2) AS UTINYINT),
    TRY_CAST(split_part(addr, '.', 3) AS UTINYINT),
    TRY_CAST(split_part(addr, '.', 4) AS UTINYINT)
  )
  -- ::ffff:10.0.0.1
  WHEN addr LIKE '%.%' THEN lpad('', 20, '0') || CASE WHEN addr LIKE '::ffff:%' THEN 'ffff' ELSE '0000' END || format(
    '{:02x}{:02x}{:02x}{:02x}',
    TRY_CAST(split_part(regexp_extract(addr, '[0-9.]*$'), '.', 1) AS UTINYINT),
    TRY_CAST(split_part(addr, '.', 2) AS UTINYINT),
    TRY_CAST(split_part(addr, '.', 3) AS UTINYINT),
    TRY_CAST(split_part(addr, '.', 4) AS UTINYINT)
  )
  ELSE rpad(
    array_to_string(list_transform(string_split(split_part(addr, '::', 1), ':'), lambda g: CASE WHEN g = '' THEN '' ELSE lpad(g, 4, '0') END), ''),
    CAST(32 - 4 * len(list_filter(string_split(split_part(addr, '::', 2), ':'), lambda g: g <> '')) AS INTEGER),
    '0'
  ) || array_to_string(list_transform(string_split(split_part(addr, '::', 2), ':'), lambda g: CASE WHEN g = '' THEN '' ELSE lpad(g, 4, '0') END), '')
END
