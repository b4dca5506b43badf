-- title = "What is at the other end of virtual interfaces"
-- description = """
-- One row per interface of a pair (veth) whose other end is in another network namespace that was
-- recorded too: each names the other by its number, and only that one answers to it.
-- """
-- uses = ["netns_tags"]
-- [columns]
-- end_ns = "Network namespace of the other end."
-- end_ifindex = "Number of it there."
-- end_dev = "Its name there."
-- tag = "Name of that namespace, else its number."
WITH pairs AS MATERIALIZED (
  SELECT
    ns, ifindex, max_by(dev, sample) AS dev, max_by(link, sample) FILTER (WHERE link IS NOT NULL) AS link,
    max_by(link_nsid, sample) FILTER (WHERE link IS NOT NULL) AS link_nsid
  FROM interfaces
  WHERE kind = 'veth'
  GROUP BY ns, ifindex
)
SELECT a.ns, a.ifindex, b.ns AS end_ns, b.ifindex AS end_ifindex, b.dev AS end_dev, n.tag
FROM pairs AS a
JOIN pairs AS b ON b.ifindex = a.link AND b.link = a.ifindex AND b.ns <> a.ns AND a.link_nsid IS NOT NULL AND b.link_nsid IS NOT NULL
LEFT JOIN netns_tags AS n ON n.ns = b.ns
-- Containers of containers may use the same numbers: then it is not told.
QUALIFY count(*) OVER (PARTITION BY a.ns, a.ifindex) = 1 AND count(*) OVER (PARTITION BY b.ns, b.ifindex) = 1
