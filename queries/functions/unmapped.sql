-- title = "An IPv4 address as such"
-- description = "The kernel shows IPv4 on a socket of both families as ::ffff:10.0.0.1: this is 10.0.0.1."
-- [arguments]
-- addr = "Address of either family."
CASE WHEN addr LIKE '::ffff:%' THEN substr(addr, 8) ELSE addr END
