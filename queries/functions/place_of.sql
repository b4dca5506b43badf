-- title = "Where a socket is: at a listener here, or to a destination"
-- description = """
-- on :443 for a listener and the connections that it accepted, to 10.0.0.5:5432 for those that go out,
-- the path for a unix socket with a name, the kind of socket for what has neither.
-- """
-- uses = ["endpoint", "unmapped"]
-- [arguments]
-- netid = "Kind of socket."
-- state = "Its state."
-- local_addr = "Own address."
-- local_port = "Own port."
-- peer_addr = "Address of the peer."
-- peer_port = "Port of the peer."
-- is_door = "Whether the own port was listened on."
CASE
  WHEN netid LIKE 'u\_%' ESCAPE '\' THEN coalesce('on ' || nullif(local_addr, ''), netid)
  WHEN is_door OR state = 'LISTEN' THEN concat('on :', local_port)
  WHEN peer_port > 0 THEN concat('to ', endpoint(unmapped(peer_addr), peer_port))
  WHEN netid = 'udp' AND local_port > 0 THEN concat('udp on :', local_port)
  ELSE netid
END
