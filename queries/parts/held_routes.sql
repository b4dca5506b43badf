-- title = "Routes and from when until when they held"
-- description = "One row per route, next hop and time without a break."
-- [columns]
-- since_us = "First look that found it, in microseconds UTC."
-- until_us = "First look that did not; nothing while it holds."
SELECT
  ns, family, routing_table, destination, prefix_len, priority, ifindex, gateway, kind, any_value(dev) AS dev, any_value(source) AS source,
  any_value(mtu) AS mtu, epoch_us(valid_from) AS since_us, epoch_us(max(valid_to)) AS until_us
FROM routes
GROUP BY ns, family, routing_table, destination, prefix_len, priority, ifindex, gateway, kind, valid_from
