-- title = "What network interfaces carried, dropped and erred"
-- description = """
-- Is it the NIC, its queue or the path? One line per interface that carried something or has a fault:
-- those with errors or drops first, then by bytes. Errors are frames that came broken or could not be
-- sent, and those that the host had no buffers for (missed). What is dropped when sent met a queue
-- that was full or an end that is down; of what is received and dropped much is only unwanted. A queue
-- (qdisc) that drops, or in which something waits all the time, is where the way out of this host is
-- narrow. Use is the larger direction as a share of the speed, which is known of the recorder's own
-- namespace only.
-- """
-- needs = ["network"]
-- uses = ["interface_ends", "interface_queues", "interface_totals", "netns_names", "netns_of"]
-- ranks = [
--   "dev", "state", "rx_mbit_peak", "tx_mbit_peak", "errors", "tx_dropped", "qdisc", "qdisc_drops", "backlog_peak_bytes", "netns",
-- ]
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- dev = "Interface."
-- leads_to = "Name and network namespace of the other end, by its name, pod or container, if it is another that was recorded."
-- kind = "veth, bridge, vlan …; empty of a real one and of loopback."
-- state = "State at the end; empty if it is gone."
-- mtu = "Largest packet."
-- speed_mbit = "Its speed."
-- use_percent = "Most of that speed that was used from one look to the next."
-- rx_mbit = "Received, mean of the time."
-- rx_mbit_peak = "Most from one look to the next."
-- tx_mbit = "Sent, mean of the time."
-- tx_mbit_peak = "Most from one look to the next."
-- rx_packets = "Packets received."
-- tx_packets = "Packets sent."
-- rx_dropped = "Packets received and not processed."
-- tx_dropped = "Packets dropped on their way to be sent."
-- errors = "Packets with errors in either direction, and those missed."
-- missed = "Those of them that the host had no buffers for."
-- carrier_changes = "How often its link came or went."
-- qdisc = "Kinds of its queues."
-- qdisc_drops = "Packets that these dropped."
-- backlog_peak_bytes = "Most that waited in one of them."
-- stood_s = "Longest time in which something waited in one of them at every look."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many interfaces are listed; 0 lists all."
WITH queues AS (
  SELECT
    ns, ifindex, string_agg(DISTINCT kind, ', ' ORDER BY kind) AS qdisc, CAST(sum(drops) AS BIGINT) AS drops,
    max(backlog_peak) AS backlog_peak, max(stood_us) AS stood_us
  FROM interface_queues
  GROUP BY ns, ifindex
),
ranked AS (
  SELECT
    t.*, q.qdisc, q.drops AS qdisc_drops, q.backlog_peak, q.stood_us,
    row_number() OVER (
      ORDER BY
        t.errors > 0 OR t.tx_dropped > 0 OR coalesce(q.drops, 0) > 0 OR t.downs > 0 DESC, t.rx_bytes + t.tx_bytes DESC, t.ns, t.ifindex
    ) AS place
  FROM interface_totals AS t LEFT JOIN queues AS q USING (ns, ifindex)
)
SELECT
  netns_of(r.ns) AS netns, r.dev, e.end_dev || ' of ' || c.called AS leads_to, r.kind, r.state, r.mtu, r.speed_mbit,
  round(100.0 * greatest(r.rx_mbit_peak, r.tx_mbit_peak) / nullif(r.speed_mbit, 0), 1) AS use_percent,
  round(8.0 * r.rx_bytes / nullif(r.lasted_us, 0), 3) AS rx_mbit, round(r.rx_mbit_peak, 3) AS rx_mbit_peak,
  round(8.0 * r.tx_bytes / nullif(r.lasted_us, 0), 3) AS tx_mbit, round(r.tx_mbit_peak, 3) AS tx_mbit_peak,
  r.rx_packets, r.tx_packets, r.rx_dropped, r.tx_dropped, r.errors, r.missed, r.carrier_changes, r.qdisc, r.qdisc_drops,
  r.backlog_peak AS backlog_peak_bytes, round(r.stood_us / 1000000.0, 1) AS stood_s
FROM ranked AS r LEFT JOIN interface_ends AS e USING (ns, ifindex) LEFT JOIN netns_names AS c ON c.ns = e.end_ns CROSS JOIN params
WHERE params.top = 0 OR r.place <= params.top
ORDER BY r.place
