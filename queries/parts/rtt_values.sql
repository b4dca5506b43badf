-- title = "Round-trip times that connections showed"
-- description = "One row per connection and value: an idle one keeps its last value, which counts once."
-- uses = ["rtt_looks"]
-- [columns]
-- ns = "Network namespace."
-- rtt_us = "Smoothed round-trip time."
-- rttvar_us = "Largest mean deviation with it."
SELECT ns, cookie, rtt_us, max(rttvar_us) AS rttvar_us
FROM rtt_looks
GROUP BY ns, cookie, rtt_us
