-- title = "Unix listeners that are full"
-- description = """
-- A process does not accept its local connections fast enough: as many wait as its backlog allows,
-- and who connects next blocks, or fails with EAGAIN. Look at what the process was doing at that
-- time; a larger backlog (listen(), net.core.somaxconn) only helps against short bursts.
-- """
-- needs = ["unix"]
-- uses = ["listeners"]
--
-- [params.full_samples]
-- type = "BIGINT"
-- default = 2
-- doc = "Samples in which more wait than the backlog allows. One alone may be a burst that was accepted at once."
SELECT
  'critical' AS severity, CAST(1.0 * q.full_samples / q.samples AS DOUBLE) AS score, q.local AS subject, q.netns, q.pid, q.comm,
  q.full_since AS since, q.full_until AS until,
  CAST(q.queue_peak AS DOUBLE) AS measured, CAST(q.backlog AS DOUBLE) AS threshold,
  concat(
    coalesce(q.who, 'an unknown process'), ' accepts too slowly: its queue on the unix socket ',
    coalesce(q.local, 'without a name'),
    printf(
      ' was full (%,d waited, %,d may) in %,d of %,d samples; who connects then blocks or fails',
      q.queue_peak, q.backlog, q.full_samples, q.samples
    )
  ) AS sentence,
  'unix_sockets' AS report
FROM listeners AS q CROSS JOIN params AS p
WHERE q.netid IN ('u_str', 'u_seq') AND q.full_samples >= p.full_samples
