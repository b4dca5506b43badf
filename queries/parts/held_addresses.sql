-- title = "Addresses of interfaces and from when until when they were held"
-- description = "One row per address and time without a break."
-- [columns]
-- since_us = "First look that found it, in microseconds UTC."
-- until_us = "First look that did not; nothing while it holds."
SELECT
  ns, ifindex, address, prefix_len, any_value(dev) AS dev, any_value(duplicate) AS duplicate, any_value(tentative) AS tentative,
  epoch_us(valid_from) AS since_us, epoch_us(max(valid_to)) AS until_us
FROM addresses
GROUP BY ns, ifindex, address, prefix_len, valid_from
