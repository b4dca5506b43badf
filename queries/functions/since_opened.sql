-- title = "When a connection came into a state"
-- description = "A piece of its life in words: ', ESTAB +1.5 s'; nothing if it never did."
-- [arguments]
-- state = "Name of the state."
-- state_us = "First sample of it."
-- first_us = "First moment the connection is known of."
', ' || state || CASE WHEN state_us > first_us THEN concat(' +', round((state_us - first_us) / 1000000.0, 1), ' s') WHEN state_us IS NOT NULL THEN '' END
