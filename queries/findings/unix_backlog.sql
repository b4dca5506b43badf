-- title = "Unix listeners that are full"
-- description = """
-- A process does not accept its local connections fast enough: as many wait as its backlog allows,
-- and who connects next blocks, or fails with EAGAIN. Look at what the process was doing at that
-- time; a larger backlog (listen(), net.core.somaxconn) only helps against short bursts.
-- """
-- needs = ["unix"]
--
-- [params.full_samples]
-- type = "BIGINT"
-- default = 2
-- doc = "Samples in which more wait than the backlog allows. One alone may be a burst that was accepted at once."
WITH queues AS (
  SELECT
    netns,
    cookie,
    any_value(local_addr) AS place,
    max_by(pid, sample) AS pid,
    max_by(comm, sample) AS comm,
    max_by(send_q, sample) AS backlog,
    max(recv_q) AS peak,
    count(*) AS samples,
    count(CASE WHEN recv_q > send_q THEN 1 END) AS full_samples,
    min(CASE WHEN recv_q > send_q THEN sample_time END) AS since,
    max(CASE WHEN recv_q > send_q THEN sample_time END) AS until
  FROM sockets
  WHERE state = 'LISTEN' AND netid IN ('u_str', 'u_seq')
  GROUP BY netns, cookie
)
SELECT
  'critical' AS severity,
  CAST(1.0 * q.full_samples / q.samples AS DOUBLE) AS score,
  q.place AS subject,
  q.netns AS netns,
  q.pid AS pid,
  q.comm AS comm,
  q.since AS since,
  q.until AS until,
  CAST(q.peak AS DOUBLE) AS measured,
  CAST(q.backlog AS DOUBLE) AS threshold,
  concat(
    CASE WHEN q.comm IS NOT NULL THEN concat(q.comm, ' (pid ', q.pid, ')') ELSE 'an unknown process' END,
    ' accepts too slowly: its queue on the unix socket ',
    coalesce(q.place, 'without a name'),
    printf(
      ' was full (%,d waited, %,d may) in %,d of %,d samples; who connects then blocks or fails',
      q.peak, q.backlog, q.full_samples, q.samples
    )
  ) AS sentence,
  'unix_sockets' AS report
FROM queues AS q
CROSS JOIN params AS p
WHERE q.full_samples >= p.full_samples
