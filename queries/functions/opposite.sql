-- title = "Whether two sockets are the two ends of one connection"
-- description = """
-- The other end's addresses are the same the other way round, IPv4 or IPv4 on a socket of both
-- families; over loopback in the same network namespace only.
-- """
-- uses = ["is_loopback", "unmapped"]
-- [arguments]
-- ns = "Network namespace of one."
-- local_addr = "Its local address."
-- local_port = "Its local port."
-- peer_addr = "Its peer address."
-- peer_port = "Its peer port."
-- other_ns = "Network namespace of the other."
-- other_local_addr = "Local address of that."
-- other_local_port = "Local port."
-- other_peer_addr = "Peer address."
-- other_peer_port = "Peer port."
local_port = other_peer_port
  AND peer_port = other_local_port
  AND unmapped(local_addr) = unmapped(other_peer_addr)
  AND unmapped(peer_addr) = unmapped(other_local_addr)
  AND (ns = other_ns OR NOT is_loopback(local_addr))
