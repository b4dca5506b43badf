-- title = "Listening addresses and ports, sample by sample"
-- description = "One row per address, port and sample: several sockets may listen there."
-- [columns]
-- ns = "Network namespace."
-- pid = "A process that listens there, the last one known."
-- pid_then = "A process that listened there in that sample, or the last one known before."
-- comm_then = "Its name."
-- backlog_then = "How many may wait, of all its sockets, in that sample."
-- backlog = "How many may wait, of all its sockets, in the last sample."
-- accept_full = "Whether an accept queue was full."
-- is_last = "Whether it is the last sample of the door."
SELECT
  ns, local_addr, local_port, sample,
  last_value(min(pid) IGNORE NULLS) OVER whole_life AS pid,
  last_value(min_by(comm, pid) IGNORE NULLS) OVER whole_life AS comm,
  last_value(min(pid) IGNORE NULLS) OVER until_then AS pid_then,
  last_value(min_by(comm, pid) IGNORE NULLS) OVER until_then AS comm_then,
  CAST(sum(send_q) AS BIGINT) AS backlog_then,
  last_value(CAST(sum(send_q) AS BIGINT)) OVER whole_life AS backlog,
  bool_or(recv_q > send_q) AS accept_full,
  sample = max(sample) OVER whole_life AS is_last
FROM sockets
WHERE state = 'LISTEN' AND netid = 'tcp'
GROUP BY ns, local_addr, local_port, sample
WINDOW
  whole_life AS (
    PARTITION BY ns, local_addr, local_port ORDER BY sample ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
  ),
  until_then AS (PARTITION BY ns, local_addr, local_port ORDER BY sample ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
