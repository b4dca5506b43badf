-- title = "Connection attempts that nobody answers"
-- description = """
-- A process tries to connect and its SYNs are not answered, neither by a SYN-ACK nor by a refusal: the
-- host is gone, a firewall drops them, or the queues of its listener are full. The process waits
-- until its own timeout, or for two minutes. If that listener is on this host, accept_queue tells of
-- it and this does not.
-- """
-- needs = ["tcp"]
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
WITH overflowing AS (
  -- Also those that --where did not choose.
  SELECT r.netns, any_value(r.local_port) AS local_port
  FROM raw.sockets AS r
  CROSS JOIN params AS p
  WHERE r.state = 'LISTEN'
    AND r.netid = 'tcp'
    AND (p.from_us IS NULL OR r.sample_time >= make_timestamp(p.from_us))
    AND (p.to_us IS NULL OR r.sample_time < make_timestamp(p.to_us))
  GROUP BY r.netns, r.cookie
  HAVING max(CASE WHEN r.recv_q > r.send_q THEN 1 ELSE 0 END) = 1 OR max(r.drops) > min(r.drops)
  -- Never so many; but the planner may know that they are few.
  ORDER BY r.netns, r.cookie
  LIMIT 1000
),
own_doors AS (
  -- What goes to a full accept queue of this host is dropped there: accept_queue tells.
  SELECT DISTINCT s.netns, replace(s.local_addr, '::ffff:', '') AS addr, s.local_port AS port
  FROM raw.sockets AS s
  JOIN overflowing AS o
    ON o.netns = s.netns
    AND o.local_port = s.local_port
  WHERE s.netid = 'tcp'
),
attempts AS (
  SELECT
    netns,
    cookie,
    any_value(peer_addr) AS peer_addr,
    any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us,
    max_by(comm, sample) AS comm,
    min(sample_time) AS since,
    max(sample_time) AS until,
    max(t_us) - min(t_us) AS waited_us,
    max(retrans) AS again
  FROM sockets
  WHERE state = 'SYN-SENT'
  GROUP BY netns, cookie
),
stuck AS (
  SELECT
    a.netns,
    a.peer_addr,
    a.peer_port,
    coalesce(a.pid, -1) AS holder,
    max(a.pid) AS pid,
    max(a.comm) AS comm,
    count(*) AS attempts,
    max(a.waited_us) AS waited_us,
    max(a.again) AS again,
    min(a.since) AS since,
    max(a.until) AS until
  FROM attempts AS a
  CROSS JOIN params AS p
  -- Two retransmissions are three seconds, whenever they were looked at.
  WHERE (a.waited_us >= 1000000.0 * p.seconds OR (a.again >= 2 AND p.seconds <= 3))
    AND NOT EXISTS (
      SELECT 1
      FROM own_doors AS d
      WHERE d.addr = replace(a.peer_addr, '::ffff:', '')
        AND d.port = a.peer_port
        -- Every network namespace has a loopback of its own.
        AND (d.netns = a.netns OR (d.addr NOT LIKE '127.%' AND d.addr <> '::1'))
    )
  GROUP BY a.netns, a.peer_addr, a.peer_port, coalesce(a.pid, -1)
  -- Never so many that matter; but the planner may know that they are few.
  ORDER BY count(*) DESC, a.netns, a.peer_addr, a.peer_port, coalesce(a.pid, -1)
  LIMIT 1000
),
answered AS (
  SELECT
    netns,
    peer_addr,
    peer_port,
    holder,
    count(*) AS connections
  FROM (
    SELECT
      s.netns,
      k.peer_addr,
      k.peer_port,
      k.holder,
      s.cookie
    FROM sockets AS s
    JOIN stuck AS k
      ON k.netns = s.netns
      AND k.peer_port = s.peer_port
      AND k.peer_addr = s.peer_addr
      AND k.holder = coalesce(s.pid, -1)
    WHERE s.state NOT IN ('SYN-SENT', 'TIME-WAIT')
    GROUP BY s.netns, k.peer_addr, k.peer_port, k.holder, s.cookie
  ) AS others
  GROUP BY netns, peer_addr, peer_port, holder
),
named AS (
  SELECT
    k.*,
    coalesce(a.connections, 0) AS connections,
    1.0 * k.attempts / (k.attempts + coalesce(a.connections, 0)) AS share,
    CASE
      WHEN k.peer_addr LIKE '%:%' THEN concat('[', k.peer_addr, ']:', k.peer_port)
      ELSE concat(k.peer_addr, ':', k.peer_port)
    END AS peer
  FROM stuck AS k
  LEFT JOIN answered AS a
    ON a.netns = k.netns
    AND a.peer_addr = k.peer_addr
    AND a.peer_port = k.peer_port
    AND a.holder = k.holder
)
SELECT
  CASE
    WHEN n.attempts > 1 AND 100.0 * n.share >= p.critical_percent THEN 'critical'
    ELSE 'warning'
  END AS severity,
  CAST(n.share AS DOUBLE) AS score,
  n.peer AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.waited_us / 1000000.0 AS DOUBLE) AS measured,
  CAST(p.seconds AS DOUBLE) AS threshold,
  concat(
    n.peer,
    ' does not answer ',
    CASE WHEN n.comm IS NOT NULL THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    CASE
      WHEN n.attempts = 1 THEN ': a connection attempt'
      ELSE printf(': %,d connection attempts', n.attempts)
    END,
    printf(' waited for longer than %.0f s', p.seconds),
    CASE
      WHEN n.again > 0 THEN printf(', its SYN sent again up to %d times', CAST(n.again AS BIGINT))
      ELSE ''
    END
  ) AS sentence,
  'churn' AS report
FROM named AS n
CROSS JOIN params AS p
