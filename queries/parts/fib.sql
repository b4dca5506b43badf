-- title = "Routes in the order in which the kernel would use them"
-- description = """
-- One row per rule and route of the table that it asks, and per rule that says no, with the time in
-- which both held. Of those whose three networks the two addresses are in the kernel uses the one with
-- the lowest rule_priority, then the longest prefix_len, then the lowest priority. Where no rules were
-- recorded it is asked of every table, and sure if that is the main one only.
-- """
-- uses = ["address_bits", "held_routes", "held_rules"]
-- [columns]
-- rule_priority = "Place of the rule."
-- from_bits = "Network that the rule asks the source to be in, as address_bits gives it."
-- from_len = "Length of its prefix."
-- to_bits = "Network that the rule asks the destination to be in, likewise."
-- to_len = "Length of its prefix."
-- is_sure = "Whether the rule asks for no more than these."
-- by_rule = "Whether it is the rule that says no, and no route."
-- kind = "unicast; or that nothing may be sent: blackhole, unreachable, prohibit."
-- destination = "Network of the route."
-- bits = "The same, likewise."
-- prefix_len = "Length of its prefix."
-- since_us = "Since when both held, in microseconds UTC."
-- until_us = "Until when; nothing while they do."
WITH rules_held AS MATERIALIZED (
  SELECT * FROM held_rules
),
routes_held AS MATERIALIZED (
  SELECT * FROM held_routes
),
asked AS (
  SELECT
    ns, family, priority, CASE WHEN NOT inverted THEN source END AS from_only, CASE WHEN NOT inverted AND source IS NOT NULL THEN source_len END AS from_len,
    CASE WHEN NOT inverted THEN destination END AS to_only, CASE WHEN NOT inverted AND destination IS NOT NULL THEN destination_len END AS to_len,
    action, routing_table, l3mdev, suppress_prefix_len, NOT of_traffic AS is_sure, since_us, until_us
  FROM rules_held
  -- What comes in by another interface is not sent by a socket of this host.
  WHERE coalesce(iif, 'lo') = 'lo' AND action <> 'nop'
  UNION ALL
  SELECT
    ns, family, 32766, NULL, 0, NULL, 0, 'lookup', routing_table, false, NULL,
    bool_and(routing_table IN (0, 254, 255)) OVER (PARTITION BY ns), min(since_us), NULL
  FROM routes_held ANTI JOIN rules_held USING (ns)
  GROUP BY ns, family, routing_table
)
SELECT
  a.ns, a.priority AS rule_priority, CASE a.family WHEN 'inet6' THEN '::' ELSE '0.0.0.0' END AS anywhere,
  address_bits(coalesce(a.from_only, anywhere)) AS from_bits, coalesce(a.from_len, 0) AS from_len,
  coalesce(a.to_only, anywhere) AS to_network, address_bits(coalesce(a.to_only, anywhere)) AS to_bits, coalesce(a.to_len, 0) AS to_len,
  -- What was handed over with other names for addresses has no networks left: any may be the one.
  r.destination IS NULL AND coalesce(r.prefix_len, 0) > 0 AS is_lost, a.is_sure AND NOT is_lost AS is_sure, r.ns IS NULL AS by_rule,
  coalesce(r.kind, a.action) AS kind, coalesce(r.destination, a.to_only, anywhere) AS destination,
  address_bits(coalesce(r.destination, a.to_only, anywhere)) AS bits,
  CASE WHEN r.ns IS NULL THEN coalesce(a.to_len, 0) WHEN is_lost THEN 0 ELSE r.prefix_len END AS prefix_len, r.priority, r.ifindex, r.dev,
  r.gateway, r.mtu, greatest(a.since_us, r.since_us) AS since_us, least(a.until_us, r.until_us) AS until_us
FROM asked AS a
LEFT JOIN routes_held AS r
  ON a.action IN ('lookup', 'goto') AND r.ns = a.ns AND r.family = a.family AND r.prefix_len > coalesce(a.suppress_prefix_len, -1)
  AND (r.routing_table = a.routing_table OR a.action = 'goto' OR (a.l3mdev AND r.routing_table NOT IN (253, 254, 255)))
  AND r.since_us < coalesce(a.until_us, r.since_us + 1) AND a.since_us < coalesce(r.until_us, a.since_us + 1)
-- What is sent to an own address asks the table of these, whose routes are not recorded.
WHERE coalesce(r.routing_table, 0) <> 255 AND (r.ns IS NOT NULL OR a.action NOT IN ('lookup', 'goto'))
