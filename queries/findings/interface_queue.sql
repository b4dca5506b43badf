-- title = "Queues of interfaces that stand or drop"
-- description = """
-- More is to be sent by an interface than its queue (qdisc) lets through: packets wait in it at every
-- look, and everyone who sends that way waits as long, or it drops what comes. So the way out of this
-- host is narrow, by a limit that was set (tbf, htb, cake, netem) or by the link itself. Where it stands
-- and drops nothing, a fair queue (fq_codel, cake) spares others the wait.
-- """
-- needs = ["network"]
-- lasts = "seconds"
-- uses = ["interface_ends", "interface_queues", "leads_to", "netns_of", "pace", "patience"]
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "Seconds in which something waits at every look: a burst is gone by then."
--
-- [params.intervals]
-- type = "DOUBLE"
-- default = 3.0
-- doc = "Nor shorter than so many sampling intervals: fewer looks cannot tell a standstill from bad luck."
--
-- [params.wait_ms]
-- type = "DOUBLE"
-- default = 20.0
-- doc = "Milliseconds for which the most that waited takes to be sent at its pace: less is nothing beside most round trips."
--
-- [params.drops]
-- type = "BIGINT"
-- default = 10
-- doc = "Packets dropped: one now and then is how a queue tells senders to slow down."
--
-- [params.drop_percent]
-- type = "DOUBLE"
-- default = 1.0
-- doc = "Share of the packets that it drops: fair queues drop a few to make senders slow down, which is what they are for."
WITH judged AS (
  SELECT
    q.*, 1.0 * q.drops / nullif(q.drops + q.packets, 0) AS drop_share, patience_us,
    8.0 * q.stood_bytes / nullif(q.stood_measured_us, 0) AS mbit, 1.0 * q.backlog_peak * q.stood_measured_us / nullif(q.stood_bytes, 0) AS wait_us
  FROM interface_queues AS q
  CROSS JOIN (SELECT patience(p.seconds, p.intervals, interval_us) AS patience_us FROM pace CROSS JOIN params AS p) AS limits
),
full_queues AS (
  SELECT
    j.*, coalesce(j.stood_us >= j.patience_us AND coalesce(j.wait_us, 1e12) >= 1000.0 * p.wait_ms, false) AS stands,
    coalesce(j.drops >= p.drops AND 100.0 * j.drop_share >= p.drop_percent, false) AS overflows
  FROM judged AS j CROSS JOIN params AS p
)
SELECT
  'warning' AS severity, CAST(greatest(CASE WHEN n.stands THEN 0.5 ELSE 0.0 END, CASE WHEN n.overflows THEN n.drop_share ELSE 0.0 END) AS DOUBLE) AS score,
  n.dev AS subject, netns_of(n.ns) AS netns, CAST(NULL AS INTEGER) AS pid, CAST(NULL AS VARCHAR) AS comm,
  make_timestamp(least(CASE WHEN n.stands THEN n.stood_since_us END, CASE WHEN n.overflows THEN n.drops_since_us END)) AS since,
  make_timestamp(greatest(CASE WHEN n.stands THEN n.stood_until_us END, CASE WHEN n.overflows THEN n.drops_until_us END)) AS until,
  CAST(CASE WHEN n.stands THEN n.stood_us / 1000000.0 ELSE n.drops END AS DOUBLE) AS measured,
  CAST(CASE WHEN n.stands THEN n.patience_us / 1000000.0 ELSE p.drops END AS DOUBLE) AS threshold,
  concat(
    'the queue (', n.kind, ' ', n.handle, ') of interface ', n.dev, leads_to(e.end_dev, e.tag),
    CASE
      WHEN n.stands
        THEN printf(
          ' was never empty for %.0f s: up to %,.0f kB (%,d packets) waited in it', CAST(n.stood_us / 1000000.0 AS DOUBLE),
          CAST(n.backlog_peak / 1000.0 AS DOUBLE), n.qlen_peak
        )
    END,
    CASE
      WHEN n.stands AND n.wait_us IS NOT NULL
        THEN printf(', which takes %,.0f ms at the %.2f Mbit/s that it sends', CAST(n.wait_us / 1000.0 AS DOUBLE), CAST(n.mbit AS DOUBLE))
    END,
    CASE WHEN n.stands AND n.drops > 0 THEN '; it' END,
    CASE
      WHEN n.drops > 0
        THEN printf(' dropped %,d packets, %.1f %% of what came', n.drops, CAST(100.0 * n.drop_share AS DOUBLE))
    END
  ) AS sentence,
  'interfaces' AS report
FROM full_queues AS n LEFT JOIN interface_ends AS e USING (ns, ifindex) CROSS JOIN params AS p
WHERE n.stands OR n.overflows
