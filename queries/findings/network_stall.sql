-- title = "Data that the network does not deliver"
-- description = """
-- What a process wrote lies in the send queue, is sent again and again at ever longer intervals, and
-- nothing of it is acknowledged: the peer's host is gone, or something on the way drops the packets
-- (a link, a route, a firewall that forgot the connection, a full accept queue over there). Where small
-- segments pass and full ones never do, it is a black hole of the path MTU: a tunnel, and a firewall
-- that drops the ICMP message which says so; if one of the interfaces on the way is known, as of a
-- container on this host, it is named. The process cannot know before the
-- kernel gives up, after a quarter of an hour (net.ipv4.tcp_retries2) or its TCP_USER_TIMEOUT.
-- """
-- needs = ["tcp", "tcp_info"]
-- lasts = "seconds"
-- uses = [
--   "address_bits", "fib", "full_doors", "goes_to_door", "in_prefix", "interface_ends", "netns_of", "netns_tags", "pace", "patience", "silent_neighbours",
--   "undelivered", "unmapped", "who",
-- ]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds without any acknowledgement: by then several retransmissions have failed."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the process's connections that stall from which it is critical. Of many clients of a public server some always vanish."
WITH roads AS MATERIALIZED (
  SELECT * FROM fib
),
ends AS MATERIALIZED (
  SELECT * FROM interface_ends
),
stalled AS MATERIALIZED (
  SELECT
    l.* EXCLUDE (local_addr, peer_addr), unmapped(l.local_addr) AS local_addr, unmapped(l.peer_addr) AS peer_addr,
    coalesce(l.pid, -1) AS holder, coalesce(l.start_us, -1) AS started, patience_us
  FROM undelivered AS l
  CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
  WHERE l.lasted_us >= patience_us
    AND NOT EXISTS (
      SELECT 1
      FROM full_doors AS d
      WHERE goes_to_door(l.ns, l.local_addr, l.peer_addr, l.peer_port, d.ns, d.addr, d.port, d.client)
    )
),
out_by AS MATERIALIZED (
  -- By which interface they go, as routes and rules have it.
  SELECT p.*, r.is_sure, r.kind, r.ifindex, coalesce(r.gateway, p.peer_addr) AS hop
  FROM (
    SELECT
      ns, local_addr, peer_addr, epoch_us(min(since)) AS since_us, epoch_us(max(until)) AS until_us,
      address_bits(local_addr) AS local_bits, address_bits(peer_addr) AS peer_bits
    FROM stalled
    GROUP BY ns, local_addr, peer_addr
  ) AS p
  JOIN roads AS r
    ON r.ns = p.ns AND r.since_us <= p.until_us AND coalesce(r.until_us, p.until_us + 1) > p.until_us
    AND in_prefix(p.local_bits, r.from_bits, r.from_len) AND in_prefix(p.peer_bits, r.to_bits, r.to_len)
    AND in_prefix(p.peer_bits, r.bits, r.prefix_len)
  QUALIFY row_number() OVER (
    PARTITION BY p.ns, p.local_addr, p.peer_addr ORDER BY r.rule_priority, r.prefix_len DESC, r.is_sure, r.priority NULLS FIRST
  ) = 1
),
lost AS MATERIALIZED (
  SELECT *
  FROM stalled AS l
  -- A next hop that does not answer, and a route that says no, are told by next_hop.
  WHERE NOT EXISTS (
    SELECT 1
    FROM out_by AS o
    LEFT JOIN silent_neighbours AS n
      ON n.ns = o.ns AND n.ifindex = o.ifindex AND n.address = o.hop AND n.since_us <= o.until_us
      AND coalesce(n.until_us, o.until_us) >= o.since_us
    WHERE o.ns = l.ns AND o.local_addr = l.local_addr AND o.peer_addr = l.peer_addr AND o.is_sure
      AND (n.ns IS NOT NULL OR o.kind <> 'unicast')
  )
),
worst AS MATERIALIZED (
  SELECT
    ns, holder, started, max(pid) AS pid, max(comm) AS comm, max_by(peer, lasted_us) AS peer,
    max_by(local_addr, lasted_us) AS local_addr, max_by(peer_addr, lasted_us) AS peer_addr, min(since) AS since,
    max(until) AS until, max(lasted_us) AS lasted_us, max_by(waiting, lasted_us) AS waiting, max_by(tries, lasted_us) AS tries,
    first(never_pass ORDER BY lasted_us DESC) AS never_pass,
    max_by(last_sample, lasted_us) AS last_sample, any_value(patience_us) AS patience_us
  FROM lost
  GROUP BY ns, holder, started
),
holes AS (
  SELECT w.ns, w.holder, w.started, w.peer_addr, w.never_pass, epoch_us(w.until) AS until_us, o.ifindex, o.peer_bits
  FROM worst AS w LEFT JOIN out_by AS o USING (ns, local_addr, peer_addr)
  WHERE w.never_pass > 0
),
on_the_way AS (
  -- Where the way out leads to, where it goes on from there, the interface of the peer and where that comes from.
  SELECT h.*, e.end_ns AS at_ns, e.end_ifindex AS at_ifindex
  FROM holes AS h JOIN ends AS e USING (ns, ifindex)
  UNION ALL
  SELECT h.*, e.end_ns, r.ifindex
  FROM holes AS h
  JOIN ends AS e USING (ns, ifindex)
  JOIN roads AS r
    ON r.ns = e.end_ns AND r.since_us <= h.until_us AND coalesce(r.until_us, h.until_us + 1) > h.until_us
    AND in_prefix(h.peer_bits, r.to_bits, r.to_len) AND in_prefix(h.peer_bits, r.bits, r.prefix_len)
  QUALIFY row_number() OVER (
    PARTITION BY h.ns, h.holder, h.started ORDER BY r.rule_priority, r.prefix_len DESC, r.is_sure, r.priority NULLS FIRST
  ) = 1
  UNION ALL
  SELECT h.* EXCLUDE (peer_ns, peer_ifindex), unnest([h.peer_ns, e.end_ns]), unnest([h.peer_ifindex, e.end_ifindex])
  FROM (
    SELECT h.*, a.ns AS peer_ns, a.ifindex AS peer_ifindex
    FROM holes AS h JOIN (SELECT DISTINCT ns, ifindex, address FROM addresses) AS a ON a.address = h.peer_addr AND a.ns <> h.ns
    QUALIFY count(*) OVER (PARTITION BY h.ns, h.holder, h.started) = 1
  ) AS h LEFT JOIN ends AS e ON e.ns = h.peer_ns AND e.ifindex = h.peer_ifindex
),
narrow AS (
  SELECT ns, holder, started, min(mtu) AS mtu, min_by(dev, mtu) AS dev, min_by(tag, mtu) AS tag
  FROM (
    SELECT
      w.ns, w.holder, w.started, w.never_pass, i.ns AS at_ns, i.ifindex, max_by(i.mtu, i.t_us) AS mtu, max_by(i.dev, i.t_us) AS dev,
      any_value(n.tag) AS tag
    FROM on_the_way AS w
    JOIN interfaces AS i ON i.ns = w.at_ns AND i.ifindex = w.at_ifindex AND i.t_us <= w.until_us AND i.mtu IS NOT NULL
    LEFT JOIN netns_tags AS n ON n.ns = i.ns
    GROUP BY ALL
  ) AS known
  -- A packet has at least 40 bytes of headers beside what is sent.
  WHERE mtu < never_pass + 40
  GROUP BY ns, holder, started
),
named AS (
  SELECT
    w.*, x.mtu, x.dev AS narrow_dev, x.tag AS narrow_tag, a.connections,
    -- A stalled connection may have lost its owner by then: it is closed.
    greatest(a.connections, h.connections) AS of_connections, 1.0 * a.connections / of_connections AS share
  FROM worst AS w
  JOIN (
    SELECT ns, holder, started, count(*) AS connections
    FROM worst AS w JOIN lost AS s USING (ns, holder, started)
    WHERE w.last_sample BETWEEN s.first_sample AND s.last_sample
    GROUP BY ns, holder, started
  ) AS a USING (ns, holder, started)
  LEFT JOIN (
    SELECT w.ns, w.holder, w.started, count(*) AS connections
    FROM sockets AS s
    JOIN worst AS w
      ON w.ns = s.ns AND w.last_sample = s.sample AND w.holder = coalesce(s.pid, -1) AND w.started = coalesce(s.start_us, -1)
    WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN', 'TIME-WAIT', 'SYN-RECV')
    GROUP BY w.ns, w.holder, w.started
  ) AS h USING (ns, holder, started)
  LEFT JOIN narrow AS x USING (ns, holder, started)
)
SELECT
  CASE WHEN n.comm IS NOT NULL AND 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score, n.peer AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.lasted_us / 1000000.0 AS DOUBLE) AS measured, CAST(n.patience_us / 1000000.0 AS DOUBLE) AS threshold,
  concat(
    'the network does not deliver what ', coalesce(who(n.comm, n.pid), 'an unknown process'), ' sends to ', n.peer,
    CASE
      WHEN n.waiting >= 1000 THEN printf(': %,.1f kB', CAST(n.waiting / 1000.0 AS DOUBLE))
      ELSE printf(': %d bytes', CAST(n.waiting AS BIGINT))
    END,
    printf(
      ' waited and nothing was acknowledged for %.0f s, retransmitted %d times in vain',
      CAST(n.lasted_us / 1000000.0 AS DOUBLE), CAST(n.tries AS BIGINT)
    ),
    CASE
      WHEN n.of_connections > 1 THEN printf('; %,d of its %,d connections stall', n.connections, n.of_connections)
    END,
    CASE
      WHEN n.never_pass > 0
        THEN concat(
          printf('; small segments pass and full ones (%,d bytes) never do: ', n.never_pass),
          coalesce(
            'interface ' || n.narrow_dev || ' of ' || n.narrow_tag || printf(' takes packets of %,d bytes only', n.mtu),
            'the MTU is smaller on the way'
          ),
          ', and nobody says so'
        )
    END
  ) AS sentence,
  'stalls' AS report
FROM named AS n CROSS JOIN params AS p
