-- title = "Hosts on the link and from when until when they were so"
-- description = "One row per host, state and time without a break."
-- [columns]
-- since_us = "First look that found it so, in microseconds UTC."
-- until_us = "First look that did not; nothing while it holds."
SELECT
  ns, ifindex, family, address, state, any_value(dev) AS dev, any_value(lladdr) AS lladdr, epoch_us(valid_from) AS since_us,
  epoch_us(max(valid_to)) AS until_us
FROM neighbours
GROUP BY ns, ifindex, family, address, state, valid_from
