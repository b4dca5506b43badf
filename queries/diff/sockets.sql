-- title = "Sockets that appeared, vanished, changed state or grew between two samples"
-- description = """
-- One row per process, place and state in which something differs: what differs most first. A socket
-- whose state changed left one row and entered another.
-- """
-- needs = ["sockets"]
-- uses = ["doors", "place_of"]
-- [params.first]
-- type = "BIGINT"
-- default = 0
-- doc = "The earlier sample."
-- [params.last]
-- type = "BIGINT"
-- default = 0
-- doc = "The later sample."
-- [columns]
-- process = "Name of the process, if it is known."
-- place = "At which listener, or to which destination."
-- state = "State, as it was in the earlier sample of what left, and in the later one of what entered."
-- before = "Sockets in the earlier sample."
-- after = "Sockets in the later sample."
-- before_percent = "Their share in all sockets of the earlier sample."
-- after_percent = "Their share in all sockets of the later sample."
-- appeared = "Sockets of the later sample that the earlier one has not."
-- vanished = "Sockets of the earlier sample that the later one has not."
-- entered = "Sockets that came from another state."
-- gone_on = "Sockets that went on to another state."
-- queued_bytes = "By how much more (less, below 0) waits in the queues of those that stayed."
WITH looks AS MATERIALIZED (
  SELECT
    s.ns, s.cookie, s.sample = p.last AS is_last, s.comm AS process, s.state,
    place_of(s.netid, s.state, s.local_addr, s.local_port, s.peer_addr, s.peer_port, d.ns IS NOT NULL AND s.netid = 'tcp') AS place,
    CASE WHEN s.state = 'LISTEN' THEN 0 ELSE coalesce(s.recv_q, 0) + coalesce(s.send_q, 0) END AS queued
  FROM sockets AS s
  CROSS JOIN params AS p
  LEFT JOIN doors AS d ON d.ns = s.ns AND d.local_port = s.local_port
  WHERE s.sample IN (p.first, p.last)
),
counted AS (
  SELECT
    a.process, a.place, a.state, count(*) FILTER (WHERE NOT a.is_last) AS before, count(*) FILTER (WHERE a.is_last) AS after,
    count(*) FILTER (WHERE a.is_last AND o.cookie IS NULL) AS appeared,
    count(*) FILTER (WHERE NOT a.is_last AND o.cookie IS NULL) AS vanished,
    count(*) FILTER (WHERE a.is_last AND o.cookie IS NOT NULL AND o.state IS DISTINCT FROM a.state) AS entered,
    count(*) FILTER (WHERE NOT a.is_last AND o.cookie IS NOT NULL AND o.state IS DISTINCT FROM a.state) AS gone_on,
    CAST(sum(a.queued - o.queued) FILTER (WHERE a.is_last AND o.cookie IS NOT NULL) AS BIGINT) AS queued_bytes
  FROM looks AS a LEFT JOIN looks AS o ON o.ns = a.ns AND o.cookie = a.cookie AND o.is_last <> a.is_last
  GROUP BY a.process, a.place, a.state
)
SELECT
  process, place, state, before, after, 100.0 * before / nullif(sum(before) OVER (), 0) AS before_percent,
  100.0 * after / nullif(sum(after) OVER (), 0) AS after_percent, appeared, vanished, entered, gone_on, coalesce(queued_bytes, 0) AS queued_bytes
FROM counted
QUALIFY appeared + vanished + entered + gone_on > 0 OR queued_bytes <> 0
ORDER BY appeared + vanished + entered + gone_on DESC, abs(queued_bytes) DESC, process, place, state
