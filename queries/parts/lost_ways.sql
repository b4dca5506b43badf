-- title = "Ways by which nothing can get to its peer"
-- description = """
-- The rows of ways of which it is known why nothing is answered: the next hop does not answer on the
-- link, there is no route, or a route that says no.
-- """
-- uses = ["held_neighbours", "ways"]
-- [columns]
-- state = "FAILED or INCOMPLETE, of a next hop that does not answer; nothing otherwise."
-- link = "Interface that it should be on."
-- lost_us = "Since when, in microseconds UTC."
SELECT w.*, n.state, n.dev AS link, greatest(w.since_us, coalesce(n.since_us, w.since_us)) AS lost_us
FROM ways AS w
LEFT JOIN held_neighbours AS n
  ON n.ns = w.ns AND n.ifindex = w.ifindex AND n.address = w.hop AND n.state IN ('FAILED', 'INCOMPLETE')
  AND n.since_us <= w.until_us AND coalesce(n.until_us, w.until_us) >= w.since_us
WHERE w.is_sure
  AND (
    n.state = 'FAILED'
    -- Every answer takes a moment, in which the state is INCOMPLETE.
    OR (w.until_us - w.since_us >= 1000000 AND (n.state = 'INCOMPLETE' OR w.kind IS NULL))
    OR w.kind IN ('blackhole', 'unreachable', 'prohibit')
  )
