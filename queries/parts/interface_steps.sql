-- title = "What interfaces counted, from look to look"
-- description = """
-- One row for each row of interfaces: what grew since the row before, all of it after the look before;
-- nothing of the first one, and where a counter began anew.
-- """
-- uses = ["grown"]
-- [columns]
-- from_us = "Look before it, in microseconds UTC."
-- at_us = "The look."
-- until_us = "Last look that found it the same."
-- former_state = "Its state before."
-- errors = "Packets with errors, received or to be sent, and those that the host missed."
WITH told AS (
  SELECT
    i.*, epoch_us(since) AS from_us, epoch_us(sample_time) AS at_us, lead(epoch_us(since)) OVER life AS next_us,
    -- Of what began before the scope only the end is in it.
    CASE WHEN epoch_us(sample_time) >= p.from_us OR p.from_us IS NULL THEN lag(i) OVER life END AS former
  FROM raw.interfaces AS i CROSS JOIN params AS p
  WHERE p.to_us IS NULL OR epoch_us(sample_time) < p.to_us
  WINDOW life AS (PARTITION BY ns, ifindex ORDER BY sample)
)
SELECT
  t.host, t.boot, t.ns, t.ifindex, t.dev, t.sample, t.from_us, t.at_us, greatest(t.at_us, coalesce(t.next_us, l.last_us)) AS until_us,
  t.kind, t.state, t.former.state AS former_state, t.up, t.carrier, t.mtu, t.speed_mbit, t.master,
  grown(t.carrier_changes, t.former.carrier_changes) AS carrier_changes,
  grown(t.rx_bytes, t.former.rx_bytes) AS rx_bytes, grown(t.tx_bytes, t.former.tx_bytes) AS tx_bytes,
  grown(t.rx_packets, t.former.rx_packets) AS rx_packets, grown(t.tx_packets, t.former.tx_packets) AS tx_packets,
  grown(t.rx_dropped, t.former.rx_dropped) AS rx_dropped, grown(t.tx_dropped, t.former.tx_dropped) AS tx_dropped,
  grown(t.rx_missed_errors, t.former.rx_missed_errors) AS missed,
  grown(t.rx_errors, t.former.rx_errors) + grown(t.tx_errors, t.former.tx_errors)
    + grown(t.rx_missed_errors, t.former.rx_missed_errors) AS errors
FROM told AS t
CROSS JOIN (SELECT max(t_us) AS last_us FROM samples WHERE step = 'network') AS l
CROSS JOIN params AS p
WHERE p.from_us IS NULL OR coalesce(t.next_us, l.last_us) >= p.from_us OR t.at_us >= p.from_us
