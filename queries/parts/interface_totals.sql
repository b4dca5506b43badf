-- title = "Interfaces, each as a whole"
-- description = "One row per interface: what it carried, dropped and erred in this time, and how it was at the end."
-- uses = ["interface_steps"]
-- [columns]
-- lasted_us = "From its first look to the last."
-- errors = "Packets with errors, received or to be sent, and those that the host missed."
-- downs = "How often it was found to have gone down."
-- down_us = "When it was found so first."
-- set_down = "Whether it was set down each time."
SELECT
  ns, ifindex, max_by(dev, at_us) AS dev, max_by(kind, at_us) FILTER (WHERE state IS NOT NULL) AS kind,
  -- Of one that is gone there is no state.
  arg_max_null(state, at_us) AS state, max_by(mtu, at_us) AS mtu, max_by(speed_mbit, at_us) AS speed_mbit,
  min(at_us) AS since_us, max(until_us) AS until_us, max(until_us) - min(at_us) AS lasted_us,
  CAST(coalesce(sum(rx_bytes), 0) AS BIGINT) AS rx_bytes, CAST(coalesce(sum(tx_bytes), 0) AS BIGINT) AS tx_bytes,
  CAST(coalesce(sum(rx_packets), 0) AS BIGINT) AS rx_packets, CAST(coalesce(sum(tx_packets), 0) AS BIGINT) AS tx_packets,
  CAST(coalesce(sum(rx_dropped), 0) AS BIGINT) AS rx_dropped, CAST(coalesce(sum(tx_dropped), 0) AS BIGINT) AS tx_dropped,
  CAST(coalesce(sum(errors), 0) AS BIGINT) AS errors, CAST(coalesce(sum(missed), 0) AS BIGINT) AS missed,
  CAST(coalesce(sum(carrier_changes), 0) AS BIGINT) AS carrier_changes,
  max(8.0 * rx_bytes / nullif(at_us - from_us, 0)) AS rx_mbit_peak, max(8.0 * tx_bytes / nullif(at_us - from_us, 0)) AS tx_mbit_peak,
  count(*) FILTER (WHERE former_state = 'UP' AND state IN ('DOWN', 'LOWERLAYERDOWN')) AS downs,
  min(at_us) FILTER (WHERE former_state = 'UP' AND state IN ('DOWN', 'LOWERLAYERDOWN')) AS down_us,
  coalesce(bool_and(NOT up) FILTER (WHERE former_state = 'UP' AND state IN ('DOWN', 'LOWERLAYERDOWN')), false) AS set_down,
  min(at_us) FILTER (WHERE errors > 0 OR tx_dropped > 0) AS fault_since_us,
  max(at_us) FILTER (WHERE errors > 0 OR tx_dropped > 0) AS fault_until_us
FROM interface_steps
GROUP BY ns, ifindex
