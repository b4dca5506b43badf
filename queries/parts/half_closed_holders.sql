-- title = "Processes with connections that one end has closed and the other has not"
-- description = "One row per process and state, and the end that most of its connections share."
-- uses = ["endpoint", "half_closed"]
-- [columns]
-- ns = "Network namespace."
-- state = "CLOSE-WAIT or FIN-WAIT-2."
-- holder = "Process, -1 if it is not known."
-- started = "Its start after boot, -1 if it is not known."
-- before = "Connections that were so when the scope began."
-- now = "Those that are so at its end."
-- oldest_us = "Longest that one of these has been so."
-- idle_us = "Longest that one of these has received nothing."
-- waits_us = "How long each of these has been so, and received nothing."
-- came_us = "The same of those that came in this time."
-- gave_up_us = "The same of those that were closed in this time."
-- side = "on, if they share the own port, as those of a server; to, if they share the peer."
-- place = "The end that most of them share."
WITH held AS MATERIALIZED (
  SELECT
    *, coalesce(pid, -1) AS holder, coalesce(start_us, -1) AS started,
    -- Data still comes for a request whose end was said first: that is no waiting.
    CASE WHEN state = 'FIN-WAIT-2' AND idle_us < waited_us THEN idle_us ELSE waited_us END AS quiet_us
  FROM half_closed
  WHERE verdict IS DISTINCT FROM 'not accepted'
),
places AS (
  SELECT ns, state, holder, started, side, place
  FROM (
    SELECT ns, state, holder, started, 'on' AS side, local_addr AS addr, local_port AS port, local AS place FROM held WHERE at_last
    UNION ALL
    SELECT ns, state, holder, started, 'to', peer_addr, peer_port, endpoint(peer_addr, peer_port) FROM held WHERE at_last
  ) AS both_ends
  GROUP BY ns, state, holder, started, side, addr, port, place
  QUALIFY row_number() OVER (PARTITION BY ns, state, holder, started ORDER BY count(*) DESC, side, addr, port) = 1
)
SELECT
  h.ns, h.state, h.holder, h.started, any_value(h.pid) AS pid, any_value(h.start_us) AS start_us, max(h.comm) AS comm,
  count(*) FILTER (WHERE h.at_first) AS before, count(*) FILTER (WHERE h.at_last) AS now,
  max(h.waited_us) FILTER (WHERE h.at_last) AS oldest_us, max(h.idle_us) FILTER (WHERE h.at_last) AS idle_us,
  list(h.quiet_us) FILTER (WHERE h.at_last) AS waits_us,
  list(h.quiet_us) FILTER (WHERE h.at_last AND NOT h.at_first) AS came_us,
  list(h.quiet_us) FILTER (WHERE NOT h.at_last) AS gave_up_us,
  min(h.since) FILTER (WHERE h.at_last) AS since, max(h.until) AS until, p.side, p.place
FROM held AS h JOIN places AS p USING (ns, state, holder, started)
GROUP BY h.ns, h.state, h.holder, h.started, p.side, p.place
