-- title = "How many sockets each process holds, sample by sample"
-- description = """
-- One row per process, owner, kind, state and sample. The TCP subflows of MPTCP connections are left
-- out where these are recorded themselves: they take no descriptor of their own.
-- """
-- uses = ["kind_of", "larger"]
-- [columns]
-- holder = "Process; -1 none holds them, -2 it is not known, -3 the kernel."
-- owner = "process, carried, listener, kernel, none or unknown."
-- sockets = "How many; each takes a descriptor where owner is process."
-- memory = "Memory of their buffers."
-- least_ns = "Network namespace of them; the one of the least number, if they are in several."
-- most_ns = "The one of the greatest number."
WITH alike AS (
  -- What most rows have in common is looked at once for all of them.
  SELECT
    pid, start_us, owner_by, netid, state, sample, coalesce(subflow, false) AS subflow, netid = 'nl' AND local_id = 0 AS of_kernel,
    inode = 0 AS is_free, min(sample_time) AS sample_time, max(comm) AS comm, count(*) AS sockets, min(ns) AS least_ns, max(ns) AS most_ns,
    sum(rmem_alloc + fwd_alloc + optmem + backlog + larger(wmem_alloc, wmem_queued)) AS memory
  FROM sockets
  GROUP BY ALL
),
held AS (
  SELECT
    a.*,
    CASE
      WHEN pid IS NOT NULL AND owner_by IN ('carried', 'listener') THEN owner_by
      WHEN pid IS NOT NULL THEN 'process'
      WHEN of_kernel OR owner_by = 'kernel' THEN 'kernel'
      WHEN is_free THEN 'none'
      ELSE 'unknown'
    END AS owner
  FROM alike AS a
  WHERE NOT subflow OR NOT EXISTS (SELECT 1 FROM sockets WHERE netid = 'mptcp')
)
SELECT
  coalesce(pid, CASE owner WHEN 'none' THEN -1 WHEN 'unknown' THEN -2 ELSE -3 END) AS holder, coalesce(start_us, -1) AS start_us,
  owner, netid, kind_of(netid) AS kind, state, sample, min(sample_time) AS sample_time, epoch_us(min(sample_time)) AS t_us,
  max(comm) AS comm, CAST(sum(sockets) AS BIGINT) AS sockets, CAST(sum(memory) AS BIGINT) AS memory, min(least_ns) AS least_ns, max(most_ns) AS most_ns
FROM held
GROUP BY pid, start_us, owner, netid, state, sample
