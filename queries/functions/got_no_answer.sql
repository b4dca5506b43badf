-- title = "Whether a connection ended without a byte of answer"
-- description = "From a server to its client; a FIN counts as a byte received."
-- [arguments]
-- role = "client or server: of this end."
-- bytes_sent = "What this end sent in all."
-- bytes_received = "What it received."
CASE role WHEN 'server' THEN bytes_sent = 0 WHEN 'client' THEN bytes_received <= 1 END
