-- title = "What the kernel counted in a second"
-- description = "One row per counter that moved, over all network namespaces."
-- needs = ["counters"]
-- uses = ["counter_growth"]
-- [columns]
-- name = "Name of the counter."
-- growth = "What it grew by."
-- per_s = "In a second."
SELECT g.name, CAST(sum(g.growth) AS BIGINT) AS growth, sum(g.growth) / any_value(s.seconds) AS per_s
FROM counter_growth AS g
CROSS JOIN (SELECT nullif((max(t_us) - min(t_us)) / 1000000.0, 0) AS seconds FROM samples) AS s
WHERE g.growth > 0 AND NOT g.source LIKE 'sockstat%' AND g.source <> 'file-nr'
GROUP BY g.name
ORDER BY g.name
