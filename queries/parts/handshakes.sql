-- title = "Handshakes that wait for their last packet, by listening address"
-- description = "The listener of a handshake is that of its own address, else of all addresses."
-- uses = ["door_looks", "half_open"]
-- [columns]
-- ns = "Network namespace."
-- door_addr = "Address that is listened on, else its own."
-- waiting = "Sockets in SYN-RECV."
-- repeated = "Of these to which the kernel had repeated its answer."
SELECT h.ns, h.local_addr, h.local_port, coalesce(own.local_addr, every.local_addr, h.local_addr) AS door_addr, h.sample, h.waiting, h.repeated
FROM half_open AS h
LEFT JOIN (SELECT ns, local_addr, local_port FROM door_looks WHERE is_last) AS own USING (ns, local_addr, local_port)
LEFT JOIN (
  SELECT ns, local_port, max(local_addr) AS local_addr
  FROM door_looks
  WHERE is_last AND local_addr IN ('0.0.0.0', '::', '*')
  GROUP BY ns, local_port
) AS every ON every.ns = h.ns AND every.local_port = h.local_port
