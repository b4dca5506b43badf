-- title = "What network namespaces are called"
-- description = "One row per namespace: its name, else the pod or container of its processes."
-- uses = ["netns_of", "the_only"]
--
-- [columns]
-- ns = "Network namespace of one boot of one host."
-- netns = "Inode number of the network namespace."
-- home = "Whether the recorder was started in it."
-- called = "Its name, else its number and the pod or container; the number alone if nothing else is known."
WITH known AS (
  SELECT ns, bool_or(home) AS home, max_by(name, valid_from) FILTER (WHERE name IS NOT NULL) AS name
  FROM raw.namespaces
  GROUP BY ns
),
inmates AS (
  SELECT s.ns, the_only(o.pod) AS pod, the_only(o.container) AS container
  FROM (SELECT DISTINCT ns, pid FROM raw.sockets) AS s JOIN raw.owners AS o USING (pid)
  GROUP BY s.ns
)
SELECT
  ns, netns_of(ns) AS netns, home,
  CASE
    WHEN name IS NOT NULL THEN name
    ELSE concat(netns_of(ns), ' of pod ' || pod, CASE WHEN pod IS NULL THEN ' of container ' || substr(container, 1, 12) END)
  END AS called
FROM known LEFT JOIN inmates USING (ns)
