-- title = "UDP sockets and the datagrams that they dropped"
-- description = "One row per socket: what its receive buffer dropped in this time."
-- uses = ["grown", "history", "newborn"]
-- [columns]
-- ns = "Network namespace."
-- cookie = "Identity of the socket, the key together with ns."
-- pid = "Process that holds it, the last one known."
-- start_us = "Start of that process after boot."
-- drops = "Datagrams it dropped in this time; nothing if the kernel did not tell."
-- drops_before = "Datagrams it had dropped before; 0 if it came while it was recorded."
-- peak_per_s = "Most drops a second from one sample to the next."
WITH steps AS (
  SELECT
    s.*,
    s.t_us - lag(s.t_us) OVER life AS dt_us,
    CASE
      WHEN lag(s.sample) OVER life IS NOT NULL THEN lag(s.drops) OVER life
      WHEN n.cookie IS NOT NULL THEN 0
      ELSE s.drops
    END AS former_drops
  FROM history AS s LEFT JOIN newborn AS n ON n.kind = 'udp' AND n.ns = s.ns AND n.cookie = s.cookie
  WHERE s.netid IN ('udp', 'udplite')
  WINDOW life AS (PARTITION BY s.ns, s.cookie ORDER BY s.sample)
)
SELECT
  ns, cookie, max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm, max_by(who, sample) AS who,
  max_by(local_addr, sample) AS local_addr, max_by(local_port, sample) AS local_port, max_by(local, sample) AS local,
  count(*) AS samples,
  max(recv_q) AS recv_q_peak, max_by(rcvbuf, sample) AS rcvbuf,
  CASE WHEN max(rcvbuf) > 0 THEN count(*) FILTER (WHERE recv_q >= 0.9 * rcvbuf) END AS full_samples,
  min_by(former_drops, sample) AS drops_before,
  CAST(sum(coalesce(grown(drops, former_drops), 0)) FILTER (WHERE drops IS NOT NULL AND former_drops IS NOT NULL) AS BIGINT)
    AS drops,
  count(*) FILTER (WHERE drops > former_drops) AS dropping_samples,
  min(sample_time) FILTER (WHERE drops > former_drops) AS since,
  max(sample_time) FILTER (WHERE drops > former_drops) AS until,
  max(1000000.0 * (drops - former_drops) / nullif(dt_us, 0)) AS peak_per_s,
  first(sample_time ORDER BY 1.0 * (drops - former_drops) / nullif(dt_us, 0) DESC NULLS LAST, sample)
    FILTER (WHERE drops > former_drops) AS peak_time
FROM steps
WHERE wanted
GROUP BY ns, cookie
