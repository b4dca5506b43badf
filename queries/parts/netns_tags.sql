-- title = "Network namespaces by name or number"
-- description = "One row per namespace: what netns_names says, without pods and containers, for which sockets would have to be read."
-- uses = ["netns_of"]
-- [columns]
-- tag = "Its name, else its number."
SELECT ns, coalesce(max_by(name, valid_from) FILTER (WHERE name IS NOT NULL), CAST(netns_of(ns) AS VARCHAR)) AS tag
FROM namespaces
GROUP BY ns
