-- title = "Handshakes that wait for their last packet"
-- description = "One row per local address, port and sample with any socket in SYN-RECV."
-- [columns]
-- ns = "Network namespace."
-- waiting = "Sockets in SYN-RECV."
-- repeated = "Of these to which the kernel had repeated its answer."
SELECT
  ns, local_addr, local_port, sample, count(*) AS waiting, count(*) FILTER (WHERE retrans > 0) AS repeated
FROM sockets
WHERE state = 'SYN-RECV'
GROUP BY ns, local_addr, local_port, sample
