-- title = "Neighbours that do not answer on the link"
-- description = "Those rows of held_neighbours."
-- uses = ["held_neighbours"]
-- [columns]
-- state = "FAILED or INCOMPLETE."
SELECT ns, ifindex, dev, address, state, since_us, until_us
FROM held_neighbours
WHERE state IN ('FAILED', 'INCOMPLETE')
