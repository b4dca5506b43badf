-- title = "Round-trip times that connections showed"
-- description = "One row per connection and value: an idle one keeps its last value, which counts once."
-- [columns]
-- ns = "Network namespace."
-- rtt_us = "Smoothed round-trip time."
-- rttvar_us = "Largest mean deviation with it."

SELECT ns, cookie, rtt_us, max(rttvar_us) AS rttvar_us
FROM sockets
WHERE netid = 'tcp' AND state <> 'LISTEN' AND rtt_us > 0
GROUP BY ns, cookie, rtt_us
UNION ALL
SELECT ns, cookie, rtt_us, rttvar_us
FROM closes
WHERE netid = 'tcp' AND connection AND peer_port <> 0 AND rtt_us > 0 AND NOT coalesce(sampled, false)
