-- title = "Peers that have gone silent"
-- description = """
-- Connections of a server of whose peers nothing is heard, neither data nor an acknowledgement, and
-- which get more and more: their hosts were switched off, left the network, or a firewall has dropped
-- their end. Without keepalive (SO_KEEPALIVE, TCP_KEEPIDLE), and as long as the server sends nothing,
-- it never learns of that, and keeps each with a descriptor. With keepalive the kernel probes, and
-- those whose probes are not answered are told. That a peer is silent is known, that it is gone only
-- where probes stay unanswered, or the other end was recorded too and is closed: elsewhere it may be
-- idle, and this is but a note. Whose other end is open on this host does not count.
-- """
-- needs = ["tcp", "tcp_info", "listeners", "inodes"]
-- uses = ["fd_limits", "netns_of", "silent_services", "who"]
--
-- [params.more]
-- type = "BIGINT"
-- default = 10
-- doc = "So many more are silent for ten seconds at the end than at the beginning: a pool of idle connections does not get larger all the time."
--
-- [params.percent]
-- type = "DOUBLE"
-- default = 50.0
-- doc = "Share of the connections of the service that is silent: where most are used, the idle ones are clients that pause."
--
-- [params.spoke_percent]
-- type = "DOUBLE"
-- default = 10.0
-- doc = "Share of the silent ones that spoke again, or were closed, above which silence is their way: long polls, pings now and then, a timeout of the server."
--
-- [params.spread_s]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds between the shortest and the longest of these silences: clients that come back all at once, as after a restart, and are idle then have not vanished one after another."
--
-- [params.old_s]
-- type = "DOUBLE"
-- default = 60.0
-- doc = "Silence from which they are told even if they do not get more: the usual keepalive of servers has closed an idle connection, or asked, by then."
--
-- [params.old_sockets]
-- type = "BIGINT"
-- default = 20
-- doc = "So many of these: fewer are a pool of idle connections of a few clients."
--
-- [params.unanswered]
-- type = "BIGINT"
-- default = 3
-- doc = "Connections with two keepalive probes unanswered, or whose other end is known to be closed: one laptop that was shut is none."
WITH judged AS (
  SELECT
    s.*, len(list_filter(s.waits_us, lambda us: us >= 1000000.0 * p.old_s)) AS old, a.fd_limit,
    s.silent - s.silent_first >= p.more AS is_more, greatest(s.unanswered, s.gone) >= p.unanswered AS is_gone,
    s.unanswered >= s.gone AS is_probed,
    100.0 * s.silent >= p.percent * s.connections AND 100.0 * s.spoke <= p.spoke_percent * (s.silent + s.spoke)
    AND list_max(s.waits_us) - list_min(s.waits_us) >= 1000000.0 * p.spread_s AS is_silent
  FROM silent_services AS s
  CROSS JOIN params AS p
  LEFT JOIN fd_limits AS a ON a.pid = s.pid AND a.start_us = s.start_us
)
SELECT
  CASE WHEN n.is_gone THEN 'warning' ELSE 'note' END AS severity,
  CAST(least(1.0, 1.0 * greatest(n.silent, n.gone, n.unanswered) / greatest(n.connections, n.unanswered, 1)) AS DOUBLE) AS score,
  n.local AS subject, netns_of(n.ns) AS netns, n.pid, n.comm, n.since, n.until,
  CAST(CASE WHEN n.is_gone THEN greatest(n.unanswered, n.gone) ELSE n.silent END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.is_gone THEN p.unanswered WHEN n.is_more THEN p.more ELSE p.old_sockets END AS DOUBLE) AS threshold,
  concat(
    coalesce(who(n.comm, n.pid), 'an unknown process'),
    CASE
      WHEN n.is_gone AND NOT n.is_probed
        THEN printf(
          ' holds %,d connections on %s whose other end, in this recording too, is closed: nothing was heard of them for up to %.0f s, and as long as it sends nothing it does not learn of it',
          n.gone, n.local, CAST(n.quiet_us / 1000000.0 AS DOUBLE)
        )
      WHEN n.is_gone
        THEN printf(
          ' has %,d connections on %s whose peers do not answer keepalive probes (up to %d): they are gone, nothing was heard for up to %.0f s',
          n.unanswered, n.local, CAST(n.probes AS BIGINT), CAST(n.quiet_us / 1000000.0 AS DOUBLE)
        )
      WHEN n.overdue > n.silent
        THEN printf(
          ' has heard nothing of %,d of its %,d connections on %s for longer than any peer that spoke again had paused (%.1f s), of %,d of them for ten seconds and more, up to %.0f s (%,d at the beginning); these peers may be idle or gone, which it does not learn without keepalive',
          n.overdue, n.connections, n.local, CAST(n.pause_us / 1000000.0 AS DOUBLE), n.silent, CAST(n.quiet_us / 1000000.0 AS DOUBLE), n.silent_first
        )
      ELSE printf(
        ' has heard nothing of %,d of its %,d connections on %s for ten seconds and more, up to %.0f s (%,d at the beginning); these peers may be idle or gone, which it does not learn without keepalive',
        n.silent, n.connections, n.local, CAST(n.quiet_us / 1000000.0 AS DOUBLE), n.silent_first
      )
    END,
    CASE WHEN n.fd_limit IS NOT NULL THEN printf('; it may have %,d descriptors', n.fd_limit) END
  ) AS sentence,
  'silent_peers' AS report
FROM judged AS n CROSS JOIN params AS p
WHERE n.is_gone OR (n.is_silent AND (n.is_more OR n.old >= p.old_sockets))
