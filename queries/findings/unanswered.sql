-- title = "Connection attempts that nobody answers"
-- description = """
-- A process tries to connect and its SYNs are not answered, neither by a SYN-ACK nor by a refusal: the
-- host is gone, a firewall drops them, or the queues of its listener are full. The process waits
-- until its own timeout, or for two minutes. If that listener is on this host, accept_queue tells of
-- it and this does not.
-- """
-- needs = ["tcp"]
-- uses = ["endpoint", "full_doors", "goes_to_door", "netns_of", "who"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Seconds in SYN-SENT: the kernel has sent its SYN again twice by then, and no round trip takes so long."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the process's connections to that place which get no answer from which it is critical: it works no more."
WITH attempts AS (
  SELECT
    ns, cookie, any_value(local_addr) AS local_addr, any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port, max_by(pid, sample) AS pid,
    max_by(comm, sample) AS comm, min(sample_time) AS since, max(sample_time) AS until,
    max(t_us) - min(t_us) AS waited_us, max(retrans) AS again
  FROM sockets
  WHERE state = 'SYN-SENT'
  GROUP BY ns, cookie
),
stuck AS (
  SELECT
    a.ns, a.peer_addr, a.peer_port, coalesce(a.pid, -1) AS holder, max(a.pid) AS pid, max(a.comm) AS comm,
    count(*) AS attempts, max(a.waited_us) AS waited_us, max(a.again) AS again, min(a.since) AS since, max(a.until) AS until
  FROM attempts AS a CROSS JOIN params AS p
  -- Two retransmissions are three seconds, whenever they were looked at.
  WHERE (a.waited_us >= 1000000.0 * p.seconds OR (a.again >= 2 AND p.seconds <= 3))
    AND NOT EXISTS (
      SELECT 1
      FROM full_doors AS d
      WHERE goes_to_door(a.ns, a.local_addr, a.peer_addr, a.peer_port, d.ns, d.addr, d.port, d.client)
    )
  GROUP BY a.ns, a.peer_addr, a.peer_port, coalesce(a.pid, -1)
  -- Never so many that matter; but the planner may know that they are few.
  ORDER BY count(*) DESC, a.ns, a.peer_addr, a.peer_port, coalesce(a.pid, -1)
  LIMIT 1000
),
named AS (
  SELECT
    k.*, endpoint(k.peer_addr, k.peer_port) AS peer, 1.0 * k.attempts / (k.attempts + coalesce(a.connections, 0)) AS share
  FROM stuck AS k
  LEFT JOIN (
    SELECT ns, peer_addr, peer_port, k.holder, count(DISTINCT s.cookie) AS connections
    FROM sockets AS s JOIN stuck AS k USING (ns, peer_port, peer_addr)
    WHERE k.holder = coalesce(s.pid, -1) AND s.state NOT IN ('SYN-SENT', 'TIME-WAIT')
    GROUP BY ns, peer_addr, peer_port, k.holder
  ) AS a USING (ns, peer_addr, peer_port, holder)
)
SELECT
  CASE WHEN n.attempts > 1 AND 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score, n.peer AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.waited_us / 1000000.0 AS DOUBLE) AS measured, CAST(p.seconds AS DOUBLE) AS threshold,
  concat(
    n.peer, ' does not answer ', coalesce(who(n.comm, n.pid), 'an unknown process'),
    CASE
      WHEN n.attempts = 1 THEN ': a connection attempt'
      ELSE printf(': %,d connection attempts', n.attempts)
    END,
    printf(' waited for longer than %.0f s', p.seconds),
    CASE WHEN n.again > 0 THEN printf(', its SYN sent again up to %d times', CAST(n.again AS BIGINT)) END
  ) AS sentence,
  'churn' AS report
FROM named AS n CROSS JOIN params AS p
