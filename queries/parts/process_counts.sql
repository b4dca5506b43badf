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
SELECT
  coalesce(pid, CASE owner WHEN 'none' THEN -1 WHEN 'unknown' THEN -2 ELSE -3 END) AS holder, coalesce(start_us, -1) AS start_us,
  owner, netid, kind_of(netid) AS kind, state, sample, min(sample_time) AS sample_time, min(t_us) AS t_us, max(comm) AS comm,
  count(*) AS sockets, CAST(sum(memory) AS BIGINT) AS memory
FROM (
  SELECT
    sample, sample_time, t_us, netid, state, pid, start_us, comm,
    CASE
      WHEN pid IS NOT NULL AND owner_by IN ('carried', 'listener') THEN owner_by
      WHEN pid IS NOT NULL THEN 'process'
      WHEN netid = 'nl' AND local_id = 0 THEN 'kernel'
      WHEN inode = 0 THEN 'none'
      ELSE 'unknown'
    END AS owner,
    rmem_alloc + fwd_alloc + optmem + backlog + larger(wmem_alloc, wmem_queued) AS memory
  FROM sockets CROSS JOIN (SELECT count(*) AS connections FROM sockets WHERE netid = 'mptcp') AS mptcp
  WHERE mptcp.connections = 0 OR subflow IS NULL OR NOT subflow
) AS held
GROUP BY pid, start_us, owner, netid, state, sample
