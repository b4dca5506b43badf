-- title = "Whether an address never leaves its network namespace"
-- description = "Every network namespace has a loopback of its own."
-- [arguments]
-- addr = "Address of either family."
addr LIKE '127.%' OR addr LIKE '::ffff:127.%' OR addr = '::1'
