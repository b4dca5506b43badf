-- title = "Interfaces that err, drop, or go down"
-- description = """
-- A network interface received frames that were broken, missed some as the host had no buffers, could
-- not send or dropped what was to be sent, or lost its link. Whoever sends that way waits and sends
-- again, and no socket can tell why. Look at the cable or the switch for errors, at the ring (ethtool
-- -G) and at the CPU that serves it for what was missed. What is received and dropped does not count:
-- much of it is only unwanted. Nor does an interface that goes down before it is removed, as that of a
-- container does.
-- """
-- needs = ["network"]
-- uses = ["interface_ends", "interface_totals", "leads_to", "netns_of"]
--
-- [params.packets]
-- type = "BIGINT"
-- default = 10
-- doc = "Packets with errors or dropped: a link that comes up loses a few."
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 0.1
-- doc = "Share of all packets of the interface with errors or dropped: a thousandth already halves what one TCP connection gets over a long way."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 2.0
-- doc = "Share from which it is critical: connections spend more time on retransmissions than on data."
WITH judged AS (
  SELECT
    t.* EXCLUDE (downs), CASE WHEN t.state IS NOT NULL THEN t.downs ELSE 0 END AS downs, t.errors + t.tx_dropped AS bad, 1.0 * (t.errors + t.tx_dropped) / nullif(t.rx_packets + t.tx_packets + t.errors + t.tx_dropped, 0) AS share,
    coalesce(t.state IN ('DOWN', 'LOWERLAYERDOWN'), false) AS is_down
  FROM interface_totals AS t
),
faulty AS (
  SELECT j.*, j.bad >= p.packets AND 100.0 * j.share >= p.percent AS errs
  FROM judged AS j CROSS JOIN params AS p
  WHERE j.downs > 0 OR (j.bad >= p.packets AND 100.0 * j.share >= p.percent)
)
SELECT
  CASE WHEN (n.downs > 0 AND n.is_down AND NOT n.set_down) OR (n.errs AND 100.0 * n.share >= p.critical_percent) THEN 'critical' ELSE 'warning' END AS severity,
  CAST(CASE WHEN n.downs > 0 AND n.is_down THEN 1.0 WHEN n.errs THEN least(1.0, n.share) ELSE 0.5 END AS DOUBLE) AS score,
  n.dev AS subject, netns_of(n.ns) AS netns, CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm,
  make_timestamp(least(CASE WHEN n.downs > 0 THEN n.down_us END, CASE WHEN n.errs THEN n.fault_since_us END)) AS since,
  make_timestamp(greatest(CASE WHEN n.downs > 0 THEN n.down_us END, CASE WHEN n.errs THEN n.fault_until_us END, CASE WHEN n.downs > 0 AND n.is_down THEN n.until_us END)) AS until,
  CAST(CASE WHEN n.errs THEN n.bad ELSE n.downs END AS DOUBLE) AS measured, CAST(CASE WHEN n.errs THEN p.packets ELSE 1 END AS DOUBLE) AS threshold,
  concat(
    'interface ', n.dev, leads_to(e.end_dev, e.tag),
    CASE
      WHEN n.downs > 0
        THEN concat(CASE WHEN n.set_down THEN ' was set down' ELSE ' went down' END, CASE WHEN n.downs > 1 THEN printf(' %,d times', n.downs) END, CASE WHEN n.is_down THEN ' and stayed down' END)
    END,
    CASE WHEN n.downs > 0 AND n.errs THEN ', and' END,
    CASE
      WHEN n.errs
        THEN printf(
          ' lost packets: %,d with errors (%,d of them missed for want of buffers), %,d dropped when sent, of %,d',
          n.errors, n.missed, n.tx_dropped, n.rx_packets + n.tx_packets + n.errors + n.tx_dropped
        )
    END
  ) AS sentence,
  'interfaces' AS report
FROM faulty AS n LEFT JOIN interface_ends AS e USING (ns, ifindex) CROSS JOIN params AS p
