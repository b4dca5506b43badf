-- title = "Addresses, routes, rules and neighbours"
-- description = """
-- What of the network beneath held at the end of the time: give --to for another moment. First what is
-- wrong: an address that another host has too, a neighbour that does not answer, and what ended while
-- it was recorded; then by namespace and interface.
-- """
-- needs = ["network"]
-- uses = ["held_addresses", "held_neighbours", "held_routes", "held_rules", "netns_of"]
-- ranks = ["what", "dev", "address", "state", "via", "since", "until", "netns"]
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- dev = "Interface."
-- what = "address, route, rule or neighbour."
-- address = "Address or network, with the length of its prefix; of a rule what it asks for, as ip writes it."
-- via = "Gateway of a route; of a neighbour its address on the link."
-- state = "Of an address duplicate or tentative, of a route its kind, of a rule what it does, of a neighbour its state."
-- mtu = "Largest packet, of a route that says so."
-- routing_table = "Of a route the number of its table, of a rule the one that it asks; 254 is main."
-- priority = "Of a route its metric, of a rule its place: the lowest is asked first."
-- since = "First look that found it so."
-- until = "First look that did not; empty if it holds."
--
-- [params.top]
-- type = "BIGINT"
-- default = 100
-- doc = "How many lines; 0 lists all."
WITH held AS (
  SELECT
    ns, ifindex, dev, 'address' AS what, concat(address, '/', prefix_len) AS address, CAST(NULL AS VARCHAR) AS via,
    CASE WHEN duplicate THEN 'duplicate' WHEN tentative THEN 'tentative' END AS state, CAST(NULL AS BIGINT) AS mtu,
    CAST(NULL AS BIGINT) AS routing_table, CAST(NULL AS BIGINT) AS priority, since_us, until_us
  FROM held_addresses
  UNION ALL
  SELECT
    ns, ifindex, dev, 'route', concat(destination, '/', prefix_len), gateway, kind, mtu, routing_table, priority, since_us, until_us
  FROM held_routes
  UNION ALL
  SELECT
    ns, NULL, oif, 'rule',
    concat(
      CASE WHEN inverted THEN 'not ' END, 'from ', coalesce(source || '/' || source_len, CASE family WHEN 'inet6' THEN '::/0' ELSE '0.0.0.0/0' END), ' to ' || destination || '/' || destination_len,
      printf(' tos 0x%02x', tos), ' iif ' || iif, printf(' fwmark 0x%x', fwmark), CASE WHEN fwmask < 4294967295 THEN printf('/0x%x', fwmask) END,
      CASE WHEN l3mdev THEN ' l3mdev' END, printf(' uidrange %d-%d', uid_from, uid_to), ' ipproto ' || ip_proto, ' sport ' || sports,
      ' dport ' || dports, ' suppress_prefixlength ' || suppress_prefix_len
    ),
    NULL, concat(action, ' ' || goto), NULL, routing_table, priority, since_us, until_us
  FROM held_rules
  UNION ALL
  SELECT ns, ifindex, dev, 'neighbour', address, lladdr, state, NULL, NULL, NULL, since_us, until_us
  FROM held_neighbours
),
ranked AS (
  SELECT
    h.*,
    row_number() OVER (
      ORDER BY
        coalesce(state IN ('duplicate', 'FAILED', 'INCOMPLETE'), false) AND until_us IS NULL DESC, until_us IS NOT NULL DESC, ns,
        ifindex NULLS FIRST, what, address, since_us, via, priority, routing_table
    ) AS place
  FROM held AS h CROSS JOIN params AS p
  WHERE p.from_us IS NULL OR until_us IS NULL OR until_us >= p.from_us
)
SELECT
  netns_of(r.ns) AS netns, r.dev, r.what, r.address, r.via, r.state, r.mtu, r.routing_table, r.priority,
  make_timestamp(r.since_us) AS since, make_timestamp(r.until_us) AS until
FROM ranked AS r CROSS JOIN params
WHERE params.top = 0 OR r.place <= params.top
ORDER BY r.place
