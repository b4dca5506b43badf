-- title = "Local ports in use towards each destination"
-- description = """
-- One row per local address, destination, sample and process: TCP sockets that hold a local port of
-- the range from which the kernel takes those of outgoing connections, ports listened on left out. IPv4
-- has the same ports whether a socket is of IPv4 or of both families.
-- """
-- uses = ["doors", "is_loopback", "port_ranges", "tw_reuse", "unmapped"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host."
-- local_addr = "Local address."
-- peer_addr = "Address of the destination."
-- peer_port = "Its port."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- pid = "Process that holds them; nothing if not known."
-- comm = "Its name."
-- ports = "Ports in use."
-- waiting = "Of these in TIME-WAIT."
-- reusable = "Of these the kernel would take again; nothing if that was not recorded."
-- held = "Ports that cannot be taken again now; where it was not recorded, by the kernel's default: reuse over loopback."
-- most = "Ports of the range; nothing if it was not recorded."
WITH counts AS (
  SELECT
    s.ns, s.local_addr, s.peer_addr, s.peer_port, s.sample, s.pid, s.comm, r.ports AS most,
    min(s.sample_time) AS sample_time,
    count(*) AS ports,
    count(CASE WHEN s.state = 'TIME-WAIT' OR (s.state = 'FIN-WAIT-2' AND s.timer = 'timewait') THEN 1 END) AS waiting
  FROM sockets AS s
  LEFT JOIN port_ranges AS r USING (ns)
  LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
  WHERE s.netid = 'tcp'
    AND s.state NOT IN ('LISTEN', 'UNCONN')
    AND s.peer_port > 0
    AND d.local_port IS NULL
    AND (r.low IS NULL OR s.local_port BETWEEN r.low AND r.high)
  GROUP BY s.ns, s.local_addr, s.peer_addr, s.peer_port, s.sample, s.pid, s.comm, r.ports
),
levels AS (
  SELECT
    ns, unmapped(local_addr) AS local_addr, unmapped(peer_addr) AS peer_addr, peer_port, sample, pid, comm, most,
    min(sample_time) AS sample_time, CAST(sum(ports) AS BIGINT) AS ports, CAST(sum(waiting) AS BIGINT) AS waiting
  FROM counts
  GROUP BY ALL
)
SELECT
  ns, local_addr, peer_addr, peer_port, sample, sample_time, pid, comm, ports, waiting,
  CASE WHEN reuse IS NOT NULL THEN waiting * may_reuse END AS reusable,
  ports - waiting * may_reuse AS held,
  most
FROM (
  SELECT
    l.*, u.reuse,
    CAST(
      coalesce(u.reuse, '2') = '1'
        OR (coalesce(u.reuse, '2') = '2' AND (is_loopback(l.local_addr) OR is_loopback(l.peer_addr)))
      AS INT
    ) AS may_reuse
  FROM levels AS l LEFT JOIN tw_reuse AS u USING (ns)
) AS judged
