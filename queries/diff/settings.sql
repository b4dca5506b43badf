-- title = "The settings, over all network namespaces"
-- description = "One row per name: with several values where namespaces differ."
-- needs = ["settings"]
-- uses = ["sysctls"]
-- [columns]
-- name = "Name of the sysctl."
-- value = "Its values, in order."
SELECT name, string_agg(DISTINCT value, ' | ' ORDER BY value) AS value
FROM sysctls
WHERE value IS NOT NULL
GROUP BY name
ORDER BY name
