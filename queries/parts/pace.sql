-- title = "How often it was sampled"
-- description = "One row."
-- [columns]
-- interval_us = "Mean time between two samples that show sockets, in microseconds."
SELECT coalesce(1.0 * (max(t_us) - min(t_us)) / nullif(max(sample) - min(sample), 0), 0.0) AS interval_us
FROM sockets
