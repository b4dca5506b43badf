-- title = "Accept queues of listeners"
-- description = """
-- Which server does not accept its connections as fast as they come. overflows: the queue was full,
-- and connections were dropped; the process is too busy or hangs, or its backlog is too small (the
-- argument of listen(), at most net.core.somaxconn). full: it was full and nothing is known of drops.
-- drops: connections were dropped, but no sample found the queue full: it overflows in bursts between
-- the samples, or the kernel dropped SYNs for another reason; see report syn_backlog. fills: more than
-- half of the backlog waited. A queue is full when more wait than the backlog says. What a listener
-- dropped is its own count; overflows and drops of its namespace, by all listeners, stand beside it.
-- Who is dropped comes back after one second, then two, four: clients feel it as such delays. Unix
-- listeners drop nothing, there a client waits or gets EAGAIN. Unknown is nothing, never 0.
-- """
-- needs = ["sockets"]
--
-- [columns]
-- verdict = "overflows, full, drops, fills or ok, as above."
-- comm = "Name of the process that listens."
-- pid = "Process that listens."
-- netid = "Kind of socket, as ss prints it."
-- local = "Address and port it listens on; of a unix socket its name."
-- backlog = "Connections that may wait, in the last sample."
-- queue_peak = "Most that waited in a sample."
-- queue_avg = "Mean of the samples."
-- fill_percent = "Share of queue_peak in the backlog; above 100 is full."
-- full_percent = "Share of the samples that found the queue full."
-- full_s = "Seconds for which it was full at least: between samples that found it so in a row."
-- since = "First sample that found it full, UTC."
-- until = "Last sample that found it full, UTC."
-- drops = "Connections that the kernel dropped at this listener within the scope."
-- syn_recv_peak = "Most handshakes unfinished in a sample, of all listeners on this address and port."
-- namespace_overflows = "Growth of TcpExt.ListenOverflows in the namespace within the scope."
-- namespace_drops = "Growth of TcpExt.ListenDrops: these, and SYNs dropped for other reasons."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the listener on this boot, the key together with netns."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many listeners are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "fill_percent", type = "quantitative" }
-- y = { field = "local", sort = "-x" }
-- color = { field = "verdict" }
WITH looks AS (
  SELECT
    listening.*,
    lag(recv_q) OVER listener_life AS former_queue,
    lag(send_q) OVER listener_life AS former_backlog,
    lag(t_us) OVER listener_life AS former_us
  FROM (
    -- The accept queue of an MPTCP listener is that of its TCP socket, which has a row of its own.
    SELECT * FROM sockets WHERE state = 'LISTEN' AND netid <> 'mptcp'
    UNION ALL
    SELECT * FROM baseline WHERE state = 'LISTEN' AND netid <> 'mptcp'
  ) AS listening
  WINDOW listener_life AS (PARTITION BY netns, cookie ORDER BY sample)
),
begun AS (
  SELECT netns, min(sample) AS first_sample
  FROM (
    SELECT netns, sample
    FROM raw.samples
    WHERE step IN ('tcp', 'tcp6', 'all')
    GROUP BY netns, sample
    HAVING min(CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END) = 1
  ) AS whole
  GROUP BY netns
),
newborn AS (
  -- A socket that the first sample did not show has dropped nothing before it.
  SELECT r.netns, r.cookie
  FROM raw.sockets AS r
  JOIN begun AS b
    ON b.netns = r.netns
  WHERE r.state = 'LISTEN' AND r.netid = 'tcp'
  GROUP BY r.netns, r.cookie, b.first_sample
  HAVING min(r.sample) > b.first_sample
),
listening AS (
  SELECT
    netns,
    cookie,
    any_value(netid) AS netid,
    any_value(local_addr) AS local_addr,
    any_value(local_port) AS local_port,
    max_by(pid, CASE WHEN pid IS NOT NULL THEN sample END) AS pid,
    max_by(comm, CASE WHEN comm IS NOT NULL THEN sample END) AS comm,
    max_by(send_q, sample) AS backlog,
    max(recv_q) AS queue_peak,
    avg(recv_q) AS queue_avg,
    max(1.0 * recv_q / nullif(send_q, 0)) AS fill,
    count(recv_q) AS samples,
    count(CASE WHEN recv_q > send_q THEN 1 END) AS full_samples,
    sum(CASE WHEN recv_q > send_q AND former_queue > former_backlog THEN t_us - former_us ELSE 0 END) AS full_us,
    min(CASE WHEN recv_q > send_q THEN sample_time END) AS since,
    max(CASE WHEN recv_q > send_q THEN sample_time END) AS until,
    max(drops) - min(drops) AS growth,
    max(drops) AS last_drops
  FROM looks
  GROUP BY netns, cookie
),
handshakes AS (
  SELECT netns, local_addr, local_port, sample, count(*) AS sockets
  FROM sockets
  WHERE state = 'SYN-RECV'
  GROUP BY netns, local_addr, local_port, sample
),
unfinished AS (
  SELECT netns, cookie, max(sockets) AS syn_recv_peak
  FROM (
    SELECT l.netns, l.cookie, h.sample, sum(h.sockets) AS sockets
    FROM listening AS l
    JOIN handshakes AS h
      ON h.netns = l.netns
      AND h.local_port = l.local_port
    WHERE l.local_addr IN (h.local_addr, '0.0.0.0', '::', '*')
    GROUP BY l.netns, l.cookie, h.sample
  ) AS at_once
  GROUP BY netns, cookie
),
span AS (
  SELECT min(sample) AS first_sample, max(sample) AS last_sample
  FROM samples
),
readings AS (
  SELECT
    c.netns,
    c.name,
    c.value,
    2 * c.sample + CASE WHEN c.phase = 'after' THEN 1 ELSE 0 END AS place,
    CASE WHEN c.sample < span.first_sample THEN 1 ELSE 0 END AS before
  FROM raw.counters AS c
  CROSS JOIN span
  WHERE c.name IN ('TcpExt.ListenOverflows', 'TcpExt.ListenDrops')
    AND c.sample <= span.last_sample
),
grown AS (
  -- Stored is what changed: from the last value before the scope, else from the first one.
  SELECT
    netns,
    name,
    max_by(value, place)
      - coalesce(max_by(value, CASE WHEN before = 1 THEN place END), min_by(value, place)) AS growth
  FROM readings
  GROUP BY netns, name
),
counted AS (
  SELECT
    netns,
    max(CASE WHEN name = 'TcpExt.ListenOverflows' THEN growth END) AS overflows,
    max(CASE WHEN name = 'TcpExt.ListenDrops' THEN growth END) AS drops
  FROM grown
  GROUP BY netns
),
dropping AS (
  SELECT
    l.*,
    CASE WHEN n.cookie IS NOT NULL THEN l.last_drops ELSE l.growth END AS drops
  FROM listening AS l
  LEFT JOIN newborn AS n
    ON n.netns = l.netns
    AND n.cookie = l.cookie
    -- Of one that --from cuts, what it dropped in the scope only.
    AND NOT EXISTS (SELECT 1 FROM baseline AS f WHERE f.netns = n.netns AND f.cookie = n.cookie)
),
ranked AS (
  SELECT
    l.*,
    CASE WHEN l.netid = 'tcp' THEN coalesce(u.syn_recv_peak, 0) END AS syn_recv_peak,
    CASE WHEN l.netid = 'tcp' THEN c.overflows END AS namespace_overflows,
    CASE WHEN l.netid = 'tcp' THEN c.drops END AS namespace_drops,
    row_number() OVER (
      ORDER BY coalesce(l.drops, 0) DESC, l.full_samples DESC, l.fill DESC NULLS LAST, l.queue_peak DESC,
        l.netns, l.cookie
    ) AS place
  FROM dropping AS l
  LEFT JOIN unfinished AS u
    ON u.netns = l.netns
    AND u.cookie = l.cookie
  LEFT JOIN counted AS c
    ON c.netns = l.netns
)
SELECT
  CASE
    WHEN r.full_samples > 0 AND r.drops > 0 THEN 'overflows'
    WHEN r.full_samples > 0 THEN 'full'
    WHEN r.drops > 0 THEN 'drops'
    WHEN r.fill > 0.5 THEN 'fills'
    WHEN r.samples > 0 THEN 'ok'
  END AS verdict,
  r.comm AS comm,
  r.pid AS pid,
  r.netid AS netid,
  CASE
    WHEN r.local_port IS NULL THEN r.local_addr
    WHEN r.local_addr LIKE '%:%' THEN concat('[', r.local_addr, ']:', CAST(r.local_port AS VARCHAR))
    ELSE concat(r.local_addr, ':', CAST(r.local_port AS VARCHAR))
  END AS local,
  r.backlog AS backlog,
  r.queue_peak AS queue_peak,
  round(r.queue_avg, 1) AS queue_avg,
  round(100.0 * r.fill, 1) AS fill_percent,
  round(100.0 * r.full_samples / nullif(r.samples, 0), 1) AS full_percent,
  round(r.full_us / 1000000.0, 1) AS full_s,
  r.since AS since,
  r.until AS until,
  r.drops AS drops,
  r.syn_recv_peak AS syn_recv_peak,
  r.namespace_overflows AS namespace_overflows,
  r.namespace_drops AS namespace_drops,
  r.netns AS netns,
  r.cookie AS cookie
FROM ranked AS r
CROSS JOIN params
WHERE params.top = 0 OR r.place <= params.top
ORDER BY r.place
