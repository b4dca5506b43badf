-- title = "Datagrams dropped at a full receive buffer"
-- description = """
-- A process does not read its UDP socket fast enough: its receive buffer is full and the kernel drops
-- what else comes, without a word to anyone. Look at what the process was doing; a larger buffer
-- (SO_RCVBUF, net.core.rmem_max) only helps against short bursts. What a socket drops for another
-- reason (its own filter, a checksum) does not count where the kernel tells them apart.
-- """
-- needs = ["udp"]
-- uses = ["left_out", "newborn"]
--
-- [params.datagrams]
-- type = "BIGINT"
-- default = 10
-- doc = "Datagrams dropped: what uses UDP bears to lose a few, as the network loses some too."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of all datagrams of the network namespace from which it is critical."
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
    rcvbuf,
    drops
  FROM sockets
  WHERE netid IN ('udp', 'udplite')
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
    rcvbuf,
    drops
  FROM baseline
  WHERE netid IN ('udp', 'udplite')
),
begun AS (
  SELECT netns, min(sample) AS first_sample
  FROM (
    SELECT netns, sample
    FROM raw.samples
    WHERE step IN ('udp', 'udp6', 'udplite', 'udplite6', 'all')
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
  WHERE r.netid IN ('udp', 'udplite')
  GROUP BY r.netns, r.cookie, b.first_sample
  HAVING min(r.sample) > b.first_sample
),
changes AS (
  SELECT
    l.*,
    l.drops - coalesce(
      lag(l.drops) OVER (PARTITION BY l.netns, l.cookie ORDER BY l.sample),
      CASE WHEN n.cookie IS NOT NULL THEN 0 END
    ) AS growth
  FROM looks AS l
  LEFT JOIN newborn AS n
    ON n.netns = l.netns
    AND n.cookie = l.cookie
),
dropping AS (
  SELECT
    netns,
    cookie,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    max_by(pid, sample) AS pid,
    max_by(comm, sample) AS comm,
    sum(CASE WHEN growth > 0 THEN growth ELSE 0 END) AS dropped,
    max(recv_q) AS peak,
    max(rcvbuf) AS rcvbuf,
    count(*) AS samples,
    count(CASE WHEN growth > 0 THEN 1 END) AS dropping_samples,
    min(CASE WHEN growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN growth > 0 THEN sample_time END) AS until
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
      'Udp.InDatagrams', 'Udp.RcvbufErrors', 'Udp.MemErrors',
      'Udp6InDatagrams', 'Udp6RcvbufErrors', 'Udp6MemErrors'
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
kernel AS (
  SELECT
    netns,
    sum(CASE WHEN name LIKE '%InDatagrams' AND growth > 0 THEN growth ELSE 0 END) AS received,
    sum(CASE WHEN name NOT LIKE '%InDatagrams' AND growth > 0 THEN growth ELSE 0 END) AS errors,
    min(CASE WHEN name NOT LIKE '%InDatagrams' AND growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN name NOT LIKE '%InDatagrams' AND growth > 0 THEN sample_time END) AS until
  FROM readings
  GROUP BY netns
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
    AND s.netid IN ('udp', 'udplite')
  WHERE r.netid IN ('udp', 'udplite') AND s.cookie IS NULL
),
troubled AS (
  SELECT
    d.*,
    coalesce(1.0 * d.dropped / nullif(d.dropped + k.received, 0), 1.0 * d.dropping_samples / d.samples) AS share,
    CASE WHEN k.received IS NULL THEN 0 ELSE 1 END AS has_received
  FROM dropping AS d
  LEFT JOIN kernel AS k
    ON k.netns = d.netns
  CROSS JOIN params AS p
  WHERE d.dropped >= p.datagrams AND (k.errors IS NULL OR k.errors > 0)
),
named AS (
  SELECT t.*,
    CASE
      WHEN local_addr LIKE '%:%' THEN concat('[', local_addr, ']:', local_port)
      ELSE concat(local_addr, ':', local_port)
    END AS place
  FROM troubled AS t
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score,
  n.place AS subject,
  n.netns AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(n.dropped AS DOUBLE) AS measured,
  CAST(p.datagrams AS DOUBLE) AS threshold,
  concat(
    CASE WHEN n.comm IS NOT NULL THEN concat(n.comm, ' (pid ', n.pid, ')') ELSE 'an unknown process' END,
    ' does not read its UDP socket ',
    n.place,
    printf(' fast enough: %,d datagrams dropped', CAST(n.dropped AS BIGINT)),
    CASE
      WHEN n.has_received = 1
        THEN printf(', %.1f %% of all that came to the network namespace', CAST(100.0 * n.share AS DOUBLE))
      ELSE ''
    END,
    CASE
      WHEN n.rcvbuf IS NOT NULL
        THEN printf(
          '; up to %,.0f kB lay in its receive buffer of %,.0f kB',
          CAST(n.peak / 1000.0 AS DOUBLE), CAST(n.rcvbuf / 1000.0 AS DOUBLE)
        )
      ELSE ''
    END
  ) AS sentence,
  'udp_drops' AS report
FROM named AS n
CROSS JOIN params AS p
UNION ALL
SELECT
  CASE
    WHEN 100.0 * k.errors >= p.critical_percent * (k.errors + k.received) THEN 'critical'
    ELSE 'warning'
  END AS severity,
  CAST(1.0 * k.errors / (k.errors + k.received) AS DOUBLE) AS score,
  concat('network namespace ', k.netns) AS subject,
  k.netns AS netns,
  CAST(NULL AS INTEGER) AS pid,
  CAST(NULL AS VARCHAR) AS comm,
  k.since AS since,
  k.until AS until,
  CAST(k.errors AS DOUBLE) AS measured,
  CAST(p.datagrams AS DOUBLE) AS threshold,
  concat(
    'an unknown process in network namespace ',
    k.netns,
    printf(
      ' does not read its UDP socket fast enough: %,d datagrams dropped, at a socket that is not among these',
      CAST(k.errors AS BIGINT)
    )
  ) AS sentence,
  'udp_drops' AS report
FROM kernel AS k
CROSS JOIN params AS p
CROSS JOIN left_out AS o
WHERE o.sockets = 0
  AND k.errors >= p.datagrams
  AND NOT EXISTS (SELECT 1 FROM dropping AS d WHERE d.netns = k.netns AND d.dropped > 0)
