-- title = "Accept queues that overflow"
-- description = """
-- A process does not accept its connections fast enough: more wait than its backlog allows, and the
-- kernel drops what else comes. Clients wait, try again and give up. Look at what the process was
-- doing at that time (blocked, out of descriptors, out of CPU); a larger backlog (listen(), and
-- net.core.somaxconn, whichever is less) only helps against short bursts.
-- """
-- needs = ["tcp"]
-- uses = ["left_out", "newborn"]
--
-- [params.full_samples]
-- type = "BIGINT"
-- default = 2
-- doc = "Samples in which more wait than the backlog allows. One alone may be a burst that was accepted at once."
--
-- [params.drops]
-- type = "BIGINT"
-- default = 1
-- doc = "Connection attempts dropped at a full queue. The kernel counts only what it did drop, so one is one too many."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of drops in drops and accepted connections from which it is critical: every tenth client waits a second at least, the first retransmission of a SYN."
WITH looks AS (
  SELECT
    1 AS wanted,
    netns,
    cookie,
    sample,
    sample_time,
    local_addr,
    local_port,
    pid,
    comm,
    recv_q,
    send_q,
    drops
  FROM sockets
  WHERE state = 'LISTEN' AND netid IN ('tcp', 'sctp', 'dccp')
  UNION ALL
  SELECT
    0 AS wanted,
    netns,
    cookie,
    sample,
    sample_time,
    local_addr,
    local_port,
    pid,
    comm,
    recv_q,
    send_q,
    drops
  FROM baseline
  WHERE state = 'LISTEN' AND netid IN ('tcp', 'sctp', 'dccp')
),
begun AS (
  SELECT netns, min(sample) AS first_sample
  FROM (
    SELECT netns, sample
    FROM raw.samples
    WHERE step IN ('tcp', 'tcp6', 'all')
    GROUP BY netns, sample
    HAVING min(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) = 1
  ) AS whole
  GROUP BY netns
),
newborn AS (
  -- A socket that the first sample did not show has dropped nothing before it.
  SELECT r.netns, r.cookie
  FROM raw.sockets AS r
  JOIN begun AS b
    ON b.netns = r.netns
  WHERE r.state = 'LISTEN' AND r.netid = 'tcp'
  GROUP BY r.netns, r.cookie, b.first_sample
  HAVING min(r.sample) > b.first_sample
),
changes AS (
  SELECT
    l.wanted,
    l.netns,
    l.cookie,
    l.sample,
    l.sample_time,
    l.local_addr,
    l.local_port,
    l.pid,
    l.comm,
    l.recv_q,
    l.send_q,
    CASE WHEN l.recv_q > l.send_q THEN 1 ELSE 0 END AS is_full,
    -- A queue that is full and an earlier look at it tell of the drops in between.
    l.drops - coalesce(
      lag(l.drops) OVER (PARTITION BY l.netns, l.cookie ORDER BY l.sample),
      CASE WHEN n.cookie IS NOT NULL THEN 0 END
    ) AS dropped
  FROM looks AS l
  LEFT JOIN newborn AS n
    ON n.netns = l.netns
    AND n.cookie = l.cookie
),
queues AS (
  SELECT
    netns,
    cookie,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    max_by(pid, sample) AS pid,
    max_by(comm, sample) AS comm,
    max_by(send_q, sample) AS backlog,
    max(recv_q) AS peak,
    count(*) AS samples,
    sum(is_full) AS full_samples,
    sum(CASE WHEN dropped > 0 THEN dropped ELSE 0 END) AS dropped,
    min(CASE WHEN is_full = 1 OR dropped > 0 THEN sample_time END) AS since,
    max(CASE WHEN is_full = 1 OR dropped > 0 THEN sample_time END) AS until
  FROM changes
  WHERE wanted = 1
  GROUP BY netns, cookie
),
span AS (
  SELECT max(sample) AS last_sample
  FROM samples
),
changes_of_counters AS (
  -- Counters before the scope too: a value holds until the next.
  SELECT
    c.netns,
    c.name,
    c.sample,
    c.sample_time,
    c.value - lag(c.value) OVER (
      PARTITION BY c.netns, c.source, c.name
      ORDER BY c.sample, CASE WHEN c.phase = 'after' THEN 1 ELSE 0 END, c.value NULLS FIRST
    ) AS growth
  FROM raw.counters AS c
  CROSS JOIN span
  WHERE c.sample <= span.last_sample
    AND c.name IN (
      'TcpExt.ListenOverflows', 'TcpExt.ListenDrops', 'Tcp.PassiveOpens'
    )
),
readings AS (
  -- 0 says that the counter is known and did not move.
  SELECT
    c.netns,
    c.name,
    c.sample_time,
    CASE WHEN i.sample IS NOT NULL AND c.growth > 0 THEN c.growth ELSE 0 END AS growth
  FROM changes_of_counters AS c
  LEFT JOIN (SELECT DISTINCT sample FROM counters) AS i
    ON i.sample = c.sample
),
seen AS (
  SELECT netns, min(sample_time) AS since, max(sample_time) AS until
  FROM samples
  GROUP BY netns
),
kernel AS (
  SELECT
    r.netns,
    CAST(sum(CASE WHEN r.name = 'TcpExt.ListenOverflows' THEN r.growth END) AS BIGINT) AS overflows,
    CAST(sum(CASE WHEN r.name = 'TcpExt.ListenDrops' THEN r.growth END) AS BIGINT) AS drops,
    CAST(sum(CASE WHEN r.name = 'Tcp.PassiveOpens' THEN r.growth END) AS BIGINT) AS accepted,
    min(s.since) AS since,
    max(s.until) AS until
  FROM readings AS r
  LEFT JOIN seen AS s
    ON s.netns = r.netns
  GROUP BY r.netns
),
counted AS (
  SELECT
    q.*,
    k.overflows,
    k.accepted,
    -- The socket's own count has other packets that it threw away, too.
    CASE WHEN k.drops < q.dropped THEN k.drops ELSE q.dropped END AS refused
  FROM queues AS q
  LEFT JOIN kernel AS k
    ON k.netns = q.netns
),
left_out AS (
  -- Sockets that --where did not choose: what they dropped is not to be called unseen.
  SELECT count(*) AS sockets
  FROM raw.sockets AS r
  JOIN (SELECT DISTINCT netns, sample FROM samples) AS i
    ON i.netns = r.netns
    AND i.sample = r.sample
  LEFT JOIN sockets AS s
    ON s.netns = r.netns
    AND s.cookie = r.cookie
    AND s.sample = r.sample
    AND s.state = 'LISTEN'
  WHERE r.state = 'LISTEN' AND r.netid = 'tcp' AND s.cookie IS NULL
),
troubled AS (
  SELECT
    q.netns,
    q.local_addr,
    q.local_port,
    q.pid,
    q.comm,
    q.backlog,
    q.peak,
    q.samples,
    q.full_samples,
    q.refused AS dropped,
    q.since,
    q.until,
    1.0 * q.full_samples / q.samples AS full_share,
    coalesce(1.0 * q.refused / nullif(q.refused + q.accepted, 0), 0.0) AS dropped_share
  FROM counted AS q
  CROSS JOIN params AS p
  WHERE q.full_samples >= p.full_samples
    -- A listener drops for want of memory too.
    OR (q.refused >= p.drops AND (q.overflows IS NULL OR q.overflows > 0))
),
named AS (
  SELECT
    t.*,
    CASE
      WHEN comm IS NOT NULL THEN concat(comm, ' (pid ', pid, ')')
      ELSE 'an unknown process'
    END AS who,
    CASE
      WHEN local_addr LIKE '%:%' THEN concat('[', local_addr, ']:', local_port)
      ELSE concat(local_addr, ':', local_port)
    END AS place
  FROM troubled AS t
)
SELECT
  CASE
    WHEN n.dropped > 0 AND (n.full_samples >= p.full_samples OR 100.0 * n.dropped_share >= p.critical_percent)
      THEN 'critical'
    ELSE 'warning'
  END AS severity,
  -- What has reached its limit comes before what may: at least half.
  CAST(
    CASE
      WHEN n.dropped = 0 THEN n.full_share
      WHEN n.full_share > n.dropped_share THEN 0.5 + 0.5 * n.full_share
      ELSE 0.5 + 0.5 * n.dropped_share
    END AS DOUBLE
  ) AS score,
  n.place AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(CASE WHEN n.full_samples > 0 THEN n.peak ELSE n.dropped END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.full_samples > 0 THEN n.backlog ELSE p.drops END AS DOUBLE) AS threshold,
  concat(
    n.who,
    CASE
      WHEN n.dropped > 0 THEN ' lets its accept queue on '
      ELSE ' accepts too slowly: its accept queue on '
    END,
    n.place,
    CASE WHEN n.dropped > 0 THEN ' overflow: ' ELSE ' was ' END,
    CASE
      WHEN n.full_samples > 0
        THEN printf(
          'full (%,d waited, %,d may) in %,d of %,d samples', n.peak, n.backlog,
          CAST(n.full_samples AS BIGINT), CAST(n.samples AS BIGINT)
        )
      ELSE printf('in bursts between samples, %,d may wait', n.backlog)
    END,
    CASE
      WHEN n.dropped = 1 THEN ', 1 connection attempt dropped'
      WHEN n.dropped > 1 THEN printf(', %,d connection attempts dropped', CAST(n.dropped AS BIGINT))
      ELSE ''
    END
  ) AS sentence,
  'listen_queues' AS report
FROM named AS n
CROSS JOIN params AS p
UNION ALL
SELECT
  'warning' AS severity,
  CAST(coalesce(1.0 * k.overflows / nullif(k.overflows + k.accepted, 0), 0.0) AS DOUBLE) AS score,
  concat('network namespace ', k.netns) AS subject,
  k.netns AS netns,
  CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm,
  k.since AS since,
  k.until AS until,
  CAST(k.overflows AS DOUBLE) AS measured,
  CAST(p.drops AS DOUBLE) AS threshold,
  concat(
    'an unknown process lets an accept queue in network namespace ',
    k.netns,
    printf(
      ' overflow, one that is not among these sockets: connection attempts dropped: %,d',
      CAST(k.overflows AS BIGINT)
    )
  ) AS sentence,
  'listen_queues' AS report
FROM kernel AS k
CROSS JOIN params AS p
CROSS JOIN left_out AS o
WHERE o.sockets = 0
  AND k.overflows >= p.drops
  AND NOT EXISTS (SELECT 1 FROM troubled AS t WHERE t.netns = k.netns)
