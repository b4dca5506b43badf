-- title = "UDP sockets that pile up with nothing to read"
-- description = """
-- A process has many UDP sockets connected to one place, each for longer than any answer takes: it
-- forgets to close them when it is done, or the server (a resolver, most often) does not answer and
-- it waits. Which of both the kernel does not tell. Each takes a descriptor and a port. Ask the server
-- from this host, and look at what the process does with a question that was not answered.
-- """
-- needs = ["udp"]
-- lasts = "seconds"
-- uses = ["endpoint", "netns_of", "who"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds for which a socket is open with nothing to read: so long a resolver waits before it asks again."
--
-- [params.sockets]
-- type = "BIGINT"
-- default = 20
-- doc = "Such sockets to one place at once, all opened while it was recorded: a few may be questions that got lost, or are kept for a purpose."
WITH questions AS (
  SELECT
    ns, cookie, any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port, max_by(pid, sample) AS pid,
    max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm, min(t_us) AS first_us, max(t_us) - min(t_us) AS lasted_us
  FROM sockets
  WHERE netid = 'udp' AND peer_port > 0
  GROUP BY ns, cookie
  HAVING lasted_us >= (SELECT 1000000.0 * seconds FROM params)
    AND max(recv_q) = 0
    AND min(sample) > (SELECT min(sample) FROM sockets)
),
piles AS (
  SELECT
    q.ns, q.peer_addr, q.peer_port, q.pid, q.start_us, max(q.comm) AS comm, s.sample, any_value(s.sample_time) AS sample_time,
    count(*) AS waiting, max(q.lasted_us) AS lasted_us
  FROM questions AS q JOIN sockets AS s USING (ns, cookie) CROSS JOIN params AS p
  WHERE s.t_us - q.first_us >= 1000000.0 * p.seconds
  GROUP BY q.ns, q.peer_addr, q.peer_port, q.pid, q.start_us, s.sample
),
worst AS (
  SELECT
    ns, peer_addr, peer_port, pid, max(comm) AS comm, max(waiting) AS waiting, max(lasted_us) AS lasted_us, min(sample_time) AS since,
    max(sample_time) AS until
  FROM piles CROSS JOIN params AS p
  GROUP BY ns, peer_addr, peer_port, pid, start_us, p.sockets
  HAVING max(waiting) >= p.sockets
)
SELECT
  -- No limit is known to be near: behind what nears one.
  'warning' AS severity, CAST(0.2 AS DOUBLE) AS score, endpoint(n.peer_addr, n.peer_port) AS subject, netns_of(n.ns) AS netns, n.pid,
  n.comm, n.since, n.until, CAST(n.waiting AS DOUBLE) AS measured, CAST(p.sockets AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'),
    printf(
      ' has %,d UDP sockets open to %s, each for longer than %.0f s and the oldest for %.0f s, with nothing to read: it does not close them, or no answer comes',
      n.waiting, endpoint(n.peer_addr, n.peer_port), p.seconds, CAST(n.lasted_us / 1000000.0 AS DOUBLE)
    )
  ) AS sentence,
  'process_sockets' AS report
FROM worst AS n CROSS JOIN params AS p
