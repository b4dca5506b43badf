-- title = "TCP memory under pressure"
-- description = """
-- The sockets of the whole host take so much memory that the kernel saves: above the second number of
-- net.ipv4.tcp_mem it shrinks windows and drops what is out of order, above the third it drops what
-- comes and resets connections. Somebody does not read, or sends to who does not: queue_growth tells.
-- A higher tcp_mem only helps if the memory is there and the queues are wanted.
-- """
-- needs = ["counters"]
-- uses = ["counter_values"]
--
-- [params.pressures]
-- type = "BIGINT"
-- default = 1
-- doc = "Times the kernel came under pressure (TCPMemoryPressures): it counts only what happened."
WITH limits AS (
  SELECT
    max(TRY_CAST(split_part(value, ' ', 2) AS BIGINT)) AS pressure,
    max(TRY_CAST(split_part(value, ' ', 3) AS BIGINT)) AS high
  FROM (
    SELECT max_by(value, sample) AS value
    FROM settings
    WHERE name = 'net.ipv4.tcp_mem'
    GROUP BY netns
  ) AS latest
),
looks AS (
  -- Each namespace shows the number of the whole host.
  SELECT sample, min(sample_time) AS sample_time, max(value) AS pages
  FROM counter_values
  WHERE name = 'TCP.mem' AND source = 'sockstat'
  GROUP BY sample
),
measured AS (
  SELECT
    max(l.pages) AS pages,
    max_by(l.sample, l.pages) AS peak_sample,
    max(m.pressure) AS pressure,
    max(m.high) AS high,
    count(*) AS samples,
    count(CASE WHEN l.pages >= m.pressure THEN 1 END) AS pressed_samples,
    min(CASE WHEN l.pages >= m.pressure THEN l.sample_time END) AS since,
    max(CASE WHEN l.pages >= m.pressure THEN l.sample_time END) AS until
  FROM looks AS l
  CROSS JOIN limits AS m
),
counted AS (
  -- Counted where it was noticed, though it is the host's.
  SELECT
    sum(CASE WHEN growth > 0 THEN growth ELSE 0 END) AS pressures,
    min(CASE WHEN growth > 0 THEN sample_time END) AS since,
    max(CASE WHEN growth > 0 THEN sample_time END) AS until
  FROM (
    SELECT
      sample_time,
      value - lag(value) OVER (PARTITION BY netns, source ORDER BY sample, phase DESC) AS growth
    FROM counter_values
    WHERE name = 'TcpExt.TCPMemoryPressures'
  ) AS readings
),
pressed AS (
  SELECT
    m.pages,
    m.peak_sample,
    m.pressure,
    m.high,
    m.samples,
    m.pressed_samples,
    coalesce(c.pressures, 0) AS pressures,
    CASE WHEN m.since < c.since OR c.since IS NULL THEN m.since ELSE c.since END AS since,
    CASE WHEN m.until > c.until OR c.until IS NULL THEN m.until ELSE c.until END AS until
  FROM measured AS m
  CROSS JOIN counted AS c
  CROSS JOIN params AS p
  WHERE m.pressed_samples > 0 OR c.pressures >= p.pressures
),
holders AS (
  SELECT
    s.pid,
    max(s.comm) AS comm,
    sum(
      s.rmem_alloc + s.fwd_alloc + s.optmem
        + CASE WHEN s.wmem_alloc > s.wmem_queued THEN s.wmem_alloc ELSE s.wmem_queued END
    ) AS bytes
  FROM sockets AS s
  JOIN pressed AS x
    ON x.peak_sample = s.sample
  WHERE s.netid = 'tcp' AND s.pid IS NOT NULL
  GROUP BY s.pid
),
named AS (
  SELECT
    x.*,
    h.pid,
    h.comm,
    h.bytes,
    row_number() OVER (ORDER BY h.bytes DESC NULLS LAST, h.pid) AS place
  FROM pressed AS x
  LEFT JOIN holders AS h
    ON h.bytes > 0
)
SELECT
  CASE WHEN n.pages >= n.high THEN 'critical' ELSE 'warning' END AS severity,
  CAST(
    CASE
      WHEN n.high IS NULL OR n.high = 0 THEN 0.5
      WHEN n.pages > n.high THEN 1.0
      ELSE 1.0 * n.pages / n.high
    END AS DOUBLE
  ) AS score,
  'this host' AS subject,
  CAST(NULL AS BIGINT) AS netns,
  n.pid AS pid,
  n.comm AS comm,
  n.since AS since,
  n.until AS until,
  CAST(CASE WHEN n.pressed_samples > 0 THEN n.pages ELSE n.pressures END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.pressed_samples > 0 THEN n.pressure ELSE p.pressures END AS DOUBLE) AS threshold,
  concat(
    printf(
      'TCP sockets of this host took up to %,.1f MB of memory',
      CAST(n.pages * 4096.0 / 1000000.0 AS DOUBLE)
    ),
    CASE
      WHEN n.high IS NOT NULL
        THEN printf(
          ' (the kernel saves from %,.1f MB on, the limit is %,.1f MB)',
          CAST(n.pressure * 4096.0 / 1000000.0 AS DOUBLE), CAST(n.high * 4096.0 / 1000000.0 AS DOUBLE)
        )
      ELSE ''
    END,
    CASE
      WHEN n.pressures > 0 THEN printf(', under pressure so many times: %,d', CAST(n.pressures AS BIGINT))
      ELSE ''
    END,
    CASE
      WHEN n.pid IS NOT NULL
        THEN concat(
          '; the largest holder is ',
          coalesce(n.comm, 'a process'),
          ' (pid ',
          n.pid,
          printf('): %,.1f MB', CAST(n.bytes / 1000000.0 AS DOUBLE))
        )
      ELSE ''
    END
  ) AS sentence,
  'memory' AS report
FROM named AS n
CROSS JOIN params AS p
WHERE n.place = 1
