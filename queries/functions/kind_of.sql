-- title = "The kernel's table that a socket is in"
-- description = "unix for u_str, u_seq and u_dgr, netlink for nl: one table holds several kinds of sockets."
-- [arguments]
-- netid = "Kind of socket, as ss prints it."
CASE
  WHEN netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'unix'
  WHEN netid IN ('p_raw', 'p_dgr') THEN 'packet'
  WHEN netid = 'nl' THEN 'netlink'
  WHEN netid IN ('v_str', 'v_dgr', 'v_seq') THEN 'vsock'
  WHEN netid IN ('ti_st', 'ti_dg', 'ti_rd', 'ti_sq') THEN 'tipc'
  ELSE netid
END
