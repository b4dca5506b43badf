-- title = "Datagrams dropped at a full receive buffer"
-- description = """
-- A process does not read its UDP socket fast enough: its receive buffer is full and the kernel drops
-- what else comes, without a word to anyone. The sentence says what the process was doing, if that was
-- recorded (report processes); a larger buffer (SO_RCVBUF, net.core.rmem_max) only helps against short
-- bursts. Where the UDP sockets of the host have taken all that net.ipv4.udp_mem gives them together, any
-- of them drops, whatever its buffer: memory tells who holds it. What a socket drops for another reason
-- (its own filter, a checksum) does not count where the kernel tells them apart.
-- """
-- needs = ["udp", "drops"]
-- uses = [
--   "counter_growth", "doing", "left_out", "memory_limits", "netns_of", "process_looks", "udp_sockets", "who",
-- ]
--
-- [params.datagrams]
-- type = "BIGINT"
-- default = 10
-- doc = "Datagrams dropped: what uses UDP bears to lose a few, as the network loses some too."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of drops in all datagrams of the network namespace that were read or dropped from which it is critical."
WITH watched AS MATERIALIZED (
  SELECT * FROM udp_sockets
),
kernel AS (
  SELECT
    ns, coalesce(sum(growth) FILTER (WHERE name LIKE '%InDatagrams'), 0) AS received,
    coalesce(sum(growth) FILTER (WHERE name NOT LIKE '%InDatagrams'), 0) AS errors,
    coalesce(sum(growth) FILTER (WHERE name LIKE '%MemErrors'), 0) AS mem_errors,
    min(since) FILTER (WHERE name NOT LIKE '%InDatagrams') AS since,
    max(until) FILTER (WHERE name NOT LIKE '%InDatagrams') AS until
  FROM counter_growth
  WHERE name IN (
    'Udp.InDatagrams', 'Udp.RcvbufErrors', 'Udp.MemErrors', 'Udp6InDatagrams', 'Udp6RcvbufErrors', 'Udp6MemErrors'
  )
  GROUP BY ns
),
most AS (
  -- What all UDP sockets of the host may take.
  SELECT coalesce(max(printf(' of the %,.1f MB that they may have together', CAST(high / 1000000.0 AS DOUBLE))), '') AS allowed
  FROM memory_limits
  WHERE kind = 'udp'
),
troubled AS (
  SELECT
    d.*, coalesce(1.0 * d.drops / nullif(d.drops + k.received, 0), 1.0 * d.dropping_samples / d.samples) AS share,
    k.received, k.errors, k.mem_errors
  FROM watched AS d LEFT JOIN kernel AS k USING (ns) CROSS JOIN params AS p
  WHERE d.drops >= p.datagrams AND (k.errors IS NULL OR k.errors > 0)
),
did AS (
  SELECT t.ns, t.cookie, doing(l, epoch_us(t.since), epoch_us(t.until)) AS did
  FROM troubled AS t
  JOIN process_looks AS l
    ON l.pid = t.pid AND l.start_us = t.start_us AND l.at_us <= epoch_us(t.until) AND l.until_us >= epoch_us(t.since)
  GROUP BY t.ns, t.cookie
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(n.share AS DOUBLE) AS score, n.local AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(n.drops AS DOUBLE) AS measured, CAST(p.datagrams AS DOUBLE) AS threshold,
  concat(
    CASE
      WHEN n.mem_errors > 0 AND n.mem_errors = n.errors
        THEN concat(
          'the UDP sockets of this host left nothing', m.allowed, ' (udp_mem) for what came to ', n.local, ' of ',
          coalesce(who(n.comm, n.pid), 'an unknown process'), printf(': %,d datagrams dropped', n.drops)
        )
      ELSE concat(
        coalesce(who(n.comm, n.pid), 'an unknown process'), ' does not read its UDP socket ', n.local,
        printf(' fast enough: %,d datagrams dropped', n.drops)
      )
    END,
    -- The kernel counts a datagram when it is read: what lies unread is in neither number.
    CASE WHEN n.received IS NOT NULL THEN printf(', %,d read in the network namespace', CAST(n.received AS BIGINT)) END,
    CASE
      WHEN n.rcvbuf IS NOT NULL
        THEN printf(
          '; up to %,.0f kB lay in its receive buffer of %,.0f kB',
          CAST(n.recv_q_peak / 1000.0 AS DOUBLE), CAST(n.rcvbuf / 1000.0 AS DOUBLE)
        )
    END,
    CASE
      WHEN n.mem_errors > 0 AND n.mem_errors < n.errors
        THEN printf(
          '; of %,d dropped in the network namespace %,d were for want of memory of all UDP sockets (udp_mem)',
          CAST(n.errors AS BIGINT), CAST(n.mem_errors AS BIGINT)
        )
    END,
    '; ' || d.did
  ) AS sentence,
  'udp_drops' AS report
FROM troubled AS n LEFT JOIN did AS d USING (ns, cookie) CROSS JOIN most AS m CROSS JOIN params AS p
UNION ALL
SELECT
  CASE WHEN 100.0 * k.errors >= p.critical_percent * (k.errors + k.received) THEN 'critical' ELSE 'warning' END AS severity,
  CAST(1.0 * k.errors / (k.errors + k.received) AS DOUBLE) AS score, concat('network namespace ', netns_of(k.ns)) AS subject,
  netns_of(k.ns) AS netns, CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm, k.since, k.until,
  CAST(k.errors AS DOUBLE) AS measured, CAST(p.datagrams AS DOUBLE) AS threshold,
  concat(
    CASE
      WHEN k.mem_errors = k.errors
        THEN concat(
          'the UDP sockets of this host left nothing', m.allowed, ' (udp_mem) for what came to network namespace ',
          netns_of(k.ns)
        )
      ELSE concat('an unknown process in network namespace ', netns_of(k.ns), ' does not read its UDP socket fast enough')
    END,
    printf(': %,d datagrams dropped, at a socket that is not among these', CAST(k.errors AS BIGINT))
  ) AS sentence,
  'udp_drops' AS report
FROM kernel AS k CROSS JOIN most AS m CROSS JOIN params AS p
WHERE k.errors >= p.datagrams
  AND NOT EXISTS (SELECT 1 FROM left_out WHERE kind = 'udp')
  AND NOT EXISTS (SELECT 1 FROM watched AS d WHERE d.ns = k.ns AND d.drops > 0)
