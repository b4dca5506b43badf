-- title = "TCP connections with a round-trip time"
-- description = "One row per connection: the least and the longest that samples or its end show."
-- uses = ["rtt_looks"]
-- [columns]
-- ns = "Network namespace."
-- min_rtt_us = "Least one, by the kernel's own minimum where it tells one."
-- max_us = "Longest smoothed one."
-- peak_us = "When that was first shown."
SELECT
  ns, cookie, any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port,
  max(pid) AS pid, max(start_us) AS start_us, max(comm) AS comm,
  min(least(min_rtt_us, rtt_us)) AS min_rtt_us, max(rtt_us) AS max_us,
  -- The first of equals.
  max_by(t_us, rtt_us * 1000000000 - coalesce(sample, 0)) AS peak_us
FROM rtt_looks
GROUP BY ns, cookie
