-- title = "Connections reset with data lost"
-- description = """
-- Either a process sends on connections that the other end had closed, or reset, while they lay idle:
-- what it sent is lost, and the request fails (the race of keep-alive). The side that reuses
-- connections must give them up sooner than the other side closes them, or look before it sends.
-- Or a process closes connections and leaves unread what came on them: the kernel resets them, and
-- the other end may lose the answer too. What was sent again and again in vain is not counted here.
-- """
-- needs = ["tcp", "closes", "listeners"]
-- uses = ["endpoint", "netns_of", "resets", "who"]
--
-- [params.connections]
-- type = "BIGINT"
-- default = 5
-- doc = "Connections of a process and a service on which something was lost: a client that is killed, or gives up, is no fault of the other end."
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Share of them in all that were closed: of the many clients of a public server some always leave before the answer."
--
-- [params.critical_percent]
-- type = "DOUBLE"
-- default = 25.0
-- doc = "Share from which it is critical: every fourth connection ends with something lost, which no retry hides."
WITH named AS (
  SELECT
    r.*, 1.0 * r.resets / r.closed AS share, endpoint(r.addr, r.port) AS place,
    coalesce(who(r.comm, r.pid), 'an unknown process') AS who,
    who(r.other_comm, r.other_pid) AS other
  FROM resets AS r CROSS JOIN params AS p
  WHERE r.resets >= p.connections AND 100.0 * r.resets >= p.percent * r.closed
)
SELECT
  CASE WHEN 100.0 * n.share >= p.critical_percent THEN 'critical' ELSE 'warning' END AS severity,
  CAST(least(1.0, n.share) AS DOUBLE) AS score, n.place AS subject, netns_of(n.ns) AS netns, CAST(n.pid AS INTEGER) AS pid,
  n.comm, n.since, n.until, CAST(n.resets AS DOUBLE) AS measured, CAST(p.connections AS DOUBLE) AS threshold,
  concat(
    n.who,
    CASE
      WHEN n.lost_by = 'local' AND n.role = 'server'
        THEN printf(' closes connections of clients of its %s without reading what they sent, which resets them: ', n.place)
      WHEN n.lost_by = 'local'
        THEN printf(' closes its connections to %s without reading what came, which resets them: ', n.place)
      WHEN n.role = 'server'
        THEN printf(' answers clients of its %s that have closed or reset their connections already: ', n.place)
      ELSE concat(' sends on connections to ', n.place, ' that ', coalesce(n.other, 'the other end'), ' has closed or reset already: ')
    END,
    printf('%,d of %,d that were closed, with %,d bytes lost', n.resets, n.closed, n.lost_bytes),
    CASE WHEN n.lost_by = 'local' OR n.role = 'server' THEN '; these are of ' || n.other END,
    CASE
      WHEN n.lost_by = 'peer' AND n.role = 'client'
        THEN concat(
          printf('; it had heard nothing for %.1f s when it sent', CAST(n.idle_us / 1000000.0 AS DOUBLE)),
          CASE
            WHEN n.peer_idle_us BETWEEN 100000 AND n.idle_us
              THEN printf(', and %s had closed after %.1f s', coalesce(n.other, 'the other end'), CAST(n.peer_idle_us / 1000000.0 AS DOUBLE))
          END
        )
    END
  ) AS sentence,
  'resets' AS report
FROM named AS n CROSS JOIN params AS p
