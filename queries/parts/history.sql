-- title = "Sockets in the scope, and the last sample before it"
-- description = """
-- The rows of sockets, and of baseline: what a socket was when the scope began. A counter grows from
-- there.
-- """
-- inline = true
-- [columns]
-- wanted = "Whether the row is of the scope."
SELECT true AS wanted, * FROM sockets
UNION ALL
SELECT false AS wanted, * FROM baseline
