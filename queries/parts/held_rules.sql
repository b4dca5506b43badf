-- title = "Rules that choose the routing table, and from when until when they held"
-- description = "One row per rule and time without a break."
-- [columns]
-- of_traffic = "Whether it asks for more than the two addresses: a mark, a user, an interface, ports; these are not known of a socket."
-- since_us = "First look that found it, in microseconds UTC."
-- until_us = "First look that did not; nothing while it holds."
SELECT
  ns, family, priority, inverted, source, source_len, destination, destination_len, tos, iif, oif, fwmark, fwmask, l3mdev, uid_from,
  uid_to, ip_proto, sports, dports, action, routing_table, goto, suppress_prefix_len,
  -- What was replaced to be handed over has no networks left.
  inverted OR l3mdev OR action IN ('goto', 'nop') OR (source IS NULL AND source_len > 0) OR (destination IS NULL AND destination_len > 0)
    OR coalesce(oif, CAST(tos AS VARCHAR), CAST(fwmark AS VARCHAR), CAST(uid_from AS VARCHAR), CAST(ip_proto AS VARCHAR), sports, dports) IS NOT NULL
    AS of_traffic,
  epoch_us(valid_from) AS since_us, epoch_us(max(valid_to)) AS until_us
FROM rules
GROUP BY ALL
