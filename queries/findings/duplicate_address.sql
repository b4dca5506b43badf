-- title = "Addresses that another host has too"
-- description = """
-- The kernel asked before it used an IPv6 address, and somebody else on the link answered: it does not
-- use it (dadfailed), and what is bound to it fails, or reaches the other host.
-- """
-- needs = ["network"]
-- uses = ["held_addresses", "netns_of"]
WITH doubled AS (
  SELECT ns, address, any_value(dev) AS dev, min(since_us) AS since_us, max(coalesce(until_us, since_us)) AS until_us
  FROM held_addresses CROSS JOIN params AS p
  WHERE duplicate AND (p.from_us IS NULL OR until_us IS NULL OR until_us >= p.from_us)
  GROUP BY ns, address
)
SELECT
  'critical' AS severity, CAST(1.0 AS DOUBLE) AS score, d.address AS subject, netns_of(d.ns) AS netns, CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm, make_timestamp(d.since_us) AS since, make_timestamp(d.until_us) AS until,
  CAST(1.0 AS DOUBLE) AS measured, CAST(1.0 AS DOUBLE) AS threshold,
  concat('address ', d.address, ' of interface ', d.dev, ' is that of another host on the link too, and not used') AS sentence,
  'network' AS report
FROM doubled AS d
