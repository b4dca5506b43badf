-- title = "By which next hop connections go that wait for an answer"
-- description = """
-- One row per peer and process whose SYN or data is sent again: the route that held when it was last
-- seen to wait; none if the network of that namespace was recorded and there is none.
-- """
-- uses = ["address_bits", "fib", "in_prefix", "is_loopback", "unmapped"]
-- [columns]
-- peer_addr = "Peer."
-- connections = "Connections to it that wait."
-- since_us = "First sample that showed one waiting."
-- until_us = "Last one."
-- hop = "Next hop: the gateway, or the peer itself."
-- kind = "Kind of the route; nothing if there is none."
-- by_rule = "Whether a rule says no, and no route."
-- is_sure = "Whether the rules that lead to that route ask for no more than addresses."
WITH waiting AS (
  SELECT
    ns, unmapped(peer_addr) AS peer_addr, pid, max(comm) AS comm, count(DISTINCT cookie) AS connections, min(t_us) AS since_us,
    max(t_us) AS until_us, address_bits(max_by(unmapped(local_addr), t_us)) AS local_bits,
    address_bits(unmapped(peer_addr)) AS peer_bits
  FROM sockets
  WHERE netid = 'tcp' AND NOT is_loopback(peer_addr) AND (state = 'SYN-SENT' OR retransmits > 0)
  GROUP BY ns, unmapped(peer_addr), pid
),
known AS (
  SELECT ns, epoch_us(min(sample_time)) AS first_us
  FROM raw.interfaces
  GROUP BY ns
)
SELECT
  w.ns, w.peer_addr, w.pid, w.comm, w.connections, w.since_us, w.until_us, coalesce(r.is_sure, true) AS is_sure, r.by_rule,
  r.kind, r.dev, r.ifindex, r.destination, r.prefix_len, r.gateway, CASE WHEN r.kind IS NOT NULL THEN coalesce(r.gateway, w.peer_addr) END AS hop
FROM waiting AS w
JOIN known AS k ON k.ns = w.ns AND k.first_us <= w.until_us
LEFT JOIN fib AS r
  ON r.ns = w.ns AND r.since_us <= w.until_us AND coalesce(r.until_us, w.until_us + 1) > w.until_us
  AND in_prefix(w.peer_bits, r.bits, r.prefix_len) AND in_prefix(w.peer_bits, r.to_bits, r.to_len)
  AND in_prefix(w.local_bits, r.from_bits, r.from_len)
-- What goes to an own address needs no route.
WHERE NOT EXISTS (SELECT 1 FROM addresses AS a WHERE a.ns = w.ns AND a.address = w.peer_addr)
QUALIFY row_number() OVER (
  PARTITION BY w.ns, w.peer_addr, w.pid
  ORDER BY r.rule_priority NULLS LAST, r.prefix_len DESC NULLS LAST, r.is_sure, r.priority NULLS FIRST, r.gateway
) = 1
