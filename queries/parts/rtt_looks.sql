-- title = "Round-trip times as samples and the ends of connections show them"
-- description = "One row per TCP connection and sample, and one of the end of each that no sample shows."
-- inline = true
-- [columns]
-- ns = "Network namespace."
-- rtt_us = "Smoothed round-trip time."
-- rttvar_us = "Mean deviation."
SELECT ns, cookie, sample, t_us, peer_addr, peer_port, pid, start_us, comm, min_rtt_us, rtt_us, rttvar_us
FROM sockets
WHERE netid = 'tcp' AND state <> 'LISTEN' AND rtt_us > 0
UNION ALL
SELECT ns, cookie, sample, t_us, peer_addr, peer_port, pid, start_us, comm, min_rtt_us, rtt_us, rttvar_us
FROM closes
WHERE netid = 'tcp' AND connection AND peer_port <> 0 AND rtt_us > 0 AND NOT coalesce(sampled, false)
