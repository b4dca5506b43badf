-- title = "Local ports in use, by what shares a range of them"
-- description = """
-- Rows of port_use, but where sockets are bound before they connect: then all destinations of a local
-- address share one range, and stand as one without an address. That shows by more than half the
-- range in use, a tenth of it to another destination than most, and no port twice: a connect() that
-- chooses its port itself takes the same half of the range (its even ports) for each destination
-- first. And UDP: its ports are those of the namespace, whatever address and destination they are of.
-- """
-- uses = ["doors", "endpoint", "port_ranges", "port_use", "unmapped"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host."
-- local_addr = "Local address; * for UDP."
-- peer_addr = "Address of the destination; * where all share one range, and for UDP."
-- peer_port = "Its port; 0 where all share one range, and for UDP."
-- destination = "Both as one text, or *."
-- destinations = "Of how many destinations the row is."
-- sample = "Number of the sample."
-- sample_time = "When it was begun."
-- pid = "Process that holds them; nothing if not known."
-- comm = "Its name."
-- ports = "Ports in use."
-- waiting = "Of these in TIME-WAIT."
-- reusable = "Of these the kernel would take again; nothing if that was not recorded."
-- held = "Ports that cannot be taken again now."
-- most = "Ports of the range; nothing if it was not recorded."
WITH used AS MATERIALIZED (
  SELECT * FROM port_use
),
fullest AS (
  SELECT ns, local_addr, max_by(sample, ports) AS sample
  FROM (
    SELECT ns, local_addr, sample, most, sum(ports) AS ports
    FROM (
      -- TIME-WAIT has lost its process, and is of the same destination all the same.
      SELECT ns, local_addr, sample, most, sum(ports) AS ports
      FROM used
      GROUP BY ns, local_addr, sample, most, peer_addr, peer_port
    ) AS destinations
    GROUP BY ns, local_addr, sample, most
    HAVING 2 * sum(ports) > most AND 10 * max(ports) <= 9 * sum(ports)
  ) AS wide
  GROUP BY ns, local_addr
),
bound AS (
  SELECT f.ns, f.local_addr
  FROM sockets AS s
  JOIN fullest AS f ON f.ns = s.ns AND f.sample = s.sample AND f.local_addr = unmapped(s.local_addr)
  JOIN port_ranges AS r ON r.ns = s.ns AND s.local_port BETWEEN r.low AND r.high
  LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
  WHERE s.netid = 'tcp' AND s.state NOT IN ('LISTEN', 'UNCONN') AND s.peer_port > 0 AND d.local_port IS NULL
  GROUP BY f.ns, f.local_addr
  HAVING count(DISTINCT s.local_port) = count(*)
)
SELECT
  ns, local_addr, peer_addr, peer_port, endpoint(peer_addr, peer_port) AS destination, 1 AS destinations, sample, sample_time, pid,
  comm, ports, waiting, reusable, held, most
FROM used ANTI JOIN bound USING (ns, local_addr)
UNION ALL
SELECT
  ns, local_addr, '*', 0, '*', count(DISTINCT (peer_addr, peer_port)), sample, min(sample_time), pid, comm,
  CAST(sum(ports) AS BIGINT), CAST(sum(waiting) AS BIGINT), CAST(sum(reusable) AS BIGINT), CAST(sum(held) AS BIGINT), most
FROM used SEMI JOIN bound USING (ns, local_addr)
GROUP BY ns, local_addr, sample, pid, comm, most
UNION ALL
SELECT
  s.ns, '*', '*', 0, '*', count(DISTINCT (s.peer_addr, s.peer_port)), s.sample, min(s.sample_time), s.pid, s.comm,
  count(DISTINCT s.local_port), 0, 0, count(DISTINCT s.local_port), r.ports
FROM sockets AS s JOIN port_ranges AS r ON r.ns = s.ns AND s.local_port BETWEEN r.low AND r.high
WHERE s.netid = 'udp'
GROUP BY s.ns, s.sample, s.pid, s.comm, r.ports
