-- title = "TCP memory under pressure"
-- description = """
-- The sockets of the whole host take so much memory that the kernel is under pressure: above the second number of
-- net.ipv4.tcp_mem it shrinks windows and drops what is out of order, above the third it drops what
-- comes and resets connections. Somebody does not read, or sends to who does not: queue_growth tells.
-- A higher tcp_mem only helps if the memory is there and the queues are wanted.
-- """
-- needs = ["counters"]
-- uses = ["counter_growth", "kernel_memory", "larger", "memory_limits"]
--
-- [params.pressures]
-- type = "BIGINT"
-- default = 1
-- doc = "Times the kernel came under pressure (TCPMemoryPressures): it counts only what happened."
WITH measured AS (
  SELECT
    max(k.bytes) AS bytes, max_by(k.sample, k.bytes) AS peak_sample, max(m.pressure) AS pressure, max(m.high) AS high,
    count(*) FILTER (WHERE k.bytes >= m.pressure) AS pressed_samples,
    min(k.sample_time) FILTER (WHERE k.bytes >= m.pressure) AS since,
    max(k.sample_time) FILTER (WHERE k.bytes >= m.pressure) AS until
  FROM kernel_memory AS k LEFT JOIN memory_limits AS m USING (kind)
  WHERE k.kind = 'tcp'
),
pressed AS (
  -- Counted where it was noticed, though it is the host's.
  SELECT
    m.* REPLACE (least(m.since, c.since) AS since, greatest(m.until, c.until) AS until), coalesce(c.pressures, 0) AS pressures
  FROM measured AS m
  CROSS JOIN (
    SELECT sum(growth) AS pressures, min(since) AS since, max(until) AS until
    FROM counter_growth
    WHERE name = 'TcpExt.TCPMemoryPressures'
  ) AS c
  CROSS JOIN params AS p
  WHERE m.pressed_samples > 0 OR c.pressures >= p.pressures
),
named AS (
  SELECT x.*, h.pid, h.comm, h.bytes AS held
  FROM pressed AS x
  LEFT JOIN (
    SELECT
      s.pid, max(s.comm) AS comm, sum(s.rmem_alloc + s.fwd_alloc + s.optmem + larger(s.wmem_alloc, s.wmem_queued)) AS bytes
    FROM sockets AS s JOIN pressed AS x ON x.peak_sample = s.sample
    WHERE s.netid = 'tcp' AND s.pid IS NOT NULL
    GROUP BY s.pid
  ) AS h ON h.bytes > 0
  QUALIFY row_number() OVER (ORDER BY h.bytes DESC NULLS LAST, h.pid) = 1
)
SELECT
  CASE WHEN n.bytes >= n.high THEN 'critical' ELSE 'warning' END AS severity,
  CAST(
    CASE
      WHEN n.high IS NULL OR n.high = 0 THEN 0.5
      WHEN n.bytes > n.high THEN 1.0
      ELSE 1.0 * n.bytes / n.high
    END AS DOUBLE
  ) AS score,
  'this host' AS subject, CAST(NULL AS BIGINT) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(CASE WHEN n.pressed_samples > 0 THEN n.bytes / 4096 ELSE n.pressures END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.pressed_samples > 0 THEN n.pressure / 4096 ELSE p.pressures END AS DOUBLE) AS threshold,
  concat(
    printf('TCP sockets of this host took up to %,.1f MB of memory', CAST(n.bytes / 1000000.0 AS DOUBLE)),
    CASE
      WHEN n.high IS NOT NULL
        THEN printf(
          ' (memory pressure begins at %,.1f MB, the limit is %,.1f MB)',
          CAST(n.pressure / 1000000.0 AS DOUBLE), CAST(n.high / 1000000.0 AS DOUBLE)
        )
    END,
    CASE WHEN n.pressures > 0 THEN printf(', under pressure so many times: %,d', CAST(n.pressures AS BIGINT)) END,
    CASE
      WHEN n.pid IS NOT NULL
        THEN concat(
          '; the largest holder is ', coalesce(n.comm, 'a process'), ' (pid ', n.pid,
          printf('): %,.1f MB', CAST(n.held / 1000000.0 AS DOUBLE))
        )
    END
  ) AS sentence,
  'memory' AS report
FROM named AS n CROSS JOIN params AS p
