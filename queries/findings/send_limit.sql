-- title = "Transfers held back by a buffer"
-- description = """
-- A connection could send faster, but for a good part of the time its limit is a buffer that is too
-- small for the round-trip time: the receiver's, which sets the window, or the own send buffer. Each
-- round trip carries no more than that. Mostly a program has set SO_RCVBUF or SO_SNDBUF and so
-- switched off the kernel's own tuning: let it be, or raise it (and net.ipv4.tcp_rmem, tcp_wmem) to
-- the wanted rate times the round-trip time. A reader that is slow is told by other findings.
-- """
-- needs = ["tcp", "tcp_info"]
-- lasts = "seconds"
-- uses = ["netns_of", "send_limits", "who"]
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 25.0
-- doc = "Share of the busy time held back by the buffer: less is lost while the kernel's own tuning widens it."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds with something to send: a short transfer is over before its buffers are wide."
--
-- [params.rtt_ms]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Round-trip time in milliseconds: below it a window of 64 kB, the least that is usual, still passes 100 Mbit/s."
WITH judged AS (
  SELECT l.*, 1.0 * l.held_us / l.busy_us AS share
  FROM send_limits AS l CROSS JOIN params AS p
  WHERE l.held_by IN ('receiver window', 'send buffer')
    AND 100.0 * l.held_us >= p.percent * l.busy_us
    AND l.busy_us >= 1000000.0 * p.seconds
    AND l.rtt_us >= 1000.0 * p.rtt_ms
),
worst AS (
  SELECT *, count(*) OVER transfers AS connections
  FROM judged
  WINDOW transfers AS (PARTITION BY ns, pid, start_us, peer_addr, held_by)
  QUALIFY row_number() OVER (transfers ORDER BY held_us DESC, cookie) = 1
)
SELECT
  'warning' AS severity, CAST(n.share AS DOUBLE) AS score, n.peer AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(100.0 * n.share AS DOUBLE) AS measured, CAST(p.percent AS DOUBLE) AS threshold,
  concat(
    'what ', coalesce(who(n.comm, n.pid), 'an unknown process'), ' sends to ', n.peer, ' is held back by ',
    CASE n.held_by WHEN 'send buffer' THEN 'its own send buffer' ELSE 'the receiver''s window' END,
    printf(' for %.0f %% of the %.1f s in which it had something to send: ', CAST(100.0 * n.share AS DOUBLE), CAST(n.busy_us / 1000000.0 AS DOUBLE)),
    printf('%,.0f kB/s at a round trip of %,.0f ms', CAST(n.acked_bytes_per_s / 1000.0 AS DOUBLE), CAST(n.rtt_us / 1000.0 AS DOUBLE)),
    CASE
      WHEN n.held_by = 'send buffer' THEN printf('; that buffer is %,.0f kB, and the kernel doubles what SO_SNDBUF says', CAST(n.sndbuf / 1000.0 AS DOUBLE))
      ELSE printf(', the window at most %,.0f kB', CAST(n.most_window / 1000.0 AS DOUBLE))
    END,
    CASE WHEN n.connections > 1 THEN printf('; %,d of its connections there are like that', n.connections) END
  ) AS sentence,
  'limits' AS report
FROM worst AS n CROSS JOIN params AS p
