-- title = "Accept queues of listeners"
-- description = """
-- Which server does not accept its connections as fast as they come. overflows: the queue was full,
-- and connections were dropped; the process is too busy or hangs, or its backlog is too small (the
-- argument of listen(), at most net.core.somaxconn). full: it was full and nothing is known of drops.
-- drops: connections were dropped, but no sample found the queue full: it overflows in bursts between
-- the samples, or the kernel dropped SYNs for another reason; see report syn_backlog. fills: more than
-- half of the backlog waited. stuck: it was not full, but the first one in it waited for longer than
-- the parameter seconds: the process accepts nothing, or hardly anything. A queue is full when more wait than the backlog says. What a listener
-- dropped is its own count; overflows and drops of its namespace, by all listeners, stand beside it.
-- Who is dropped comes back after one second, then two, four: clients feel it as such delays. Unix
-- listeners drop nothing, there a client waits or gets EAGAIN. Unknown is nothing, never 0.
-- """
-- needs = ["sockets"]
-- uses = ["counter_growth", "half_open", "listeners"]
-- ranks = [
--   "verdict", "comm", "pid", "local", "drops", "backlog", "queue_peak", "wait_s", "full_s", "gave_up", "full_percent",
--   "since", "until", "namespace_overflows", "fill_percent",
-- ]
--
-- [columns]
-- verdict = "overflows, full, drops, stuck, fills or ok, as above."
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
-- wait_s = "Longest that the first in the queue had waited, in seconds, by the kernel's clock; of a unix socket how long the queue never got shorter."
-- stood_s = "Seconds in which someone waited and nothing was accepted: between samples in a row."
-- gave_up = "Most of those waiting in a sample that their client had closed again; nothing for unix."
-- since = "First sample that found it full, UTC."
-- until = "Last sample that found it full, UTC."
-- drops = "Connections that the kernel dropped at this listener within the scope."
-- syn_recv_peak = "Most handshakes unfinished in a sample, of all listeners on this address and port."
-- namespace_overflows = "Growth of TcpExt.ListenOverflows in the namespace within the scope."
-- namespace_drops = "Growth of TcpExt.ListenDrops: these, and SYNs dropped for other reasons."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the listener on this boot, the key together with netns."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 5.0
-- doc = "So long the first in a queue has to wait that it is called stuck."
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
WITH doors_seen AS MATERIALIZED (
  -- The accept queue of an MPTCP listener is that of its TCP socket, which has a row of its own.
  SELECT * FROM listeners WHERE netid <> 'mptcp'
),
unfinished AS (
  SELECT l.ns, l.cookie, h.sample, sum(h.waiting) AS sockets
  FROM doors_seen AS l JOIN half_open AS h ON h.ns = l.ns AND h.local_port = l.local_port
  WHERE l.local_addr IN (h.local_addr, '0.0.0.0', '::', '*')
  GROUP BY l.ns, l.cookie, h.sample
),
ranked AS (
  SELECT
    l.*,
    CASE WHEN l.netid = 'tcp' THEN coalesce(u.peak, 0) END AS syn_recv_peak,
    CASE WHEN l.netid = 'tcp' THEN g.overflows END AS namespace_overflows,
    CASE WHEN l.netid = 'tcp' THEN g.drops END AS namespace_drops,
    row_number() OVER (
      ORDER BY coalesce(l.drops, 0) DESC, l.full_samples DESC, l.wait_us DESC NULLS LAST, l.fill DESC NULLS LAST, l.queue_peak DESC, l.ns, l.cookie
    ) AS place
  FROM doors_seen AS l
  CROSS JOIN params
  LEFT JOIN (SELECT ns, cookie, max(sockets) AS peak FROM unfinished GROUP BY ns, cookie) AS u USING (ns, cookie)
  LEFT JOIN (
    SELECT
      ns,
      max(growth) FILTER (WHERE name = 'TcpExt.ListenOverflows') AS overflows,
      max(growth) FILTER (WHERE name = 'TcpExt.ListenDrops') AS drops
    FROM counter_growth
    WHERE name IN ('TcpExt.ListenOverflows', 'TcpExt.ListenDrops')
    GROUP BY ns
  ) AS g USING (ns)
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  CASE
    WHEN full_samples > 0 AND drops > 0 THEN 'overflows'
    WHEN full_samples > 0 THEN 'full'
    WHEN drops > 0 THEN 'drops'
    WHEN wait_us >= 1000000 * params.seconds THEN 'stuck'
    WHEN fill > 0.5 THEN 'fills'
    WHEN queue_peak IS NOT NULL THEN 'ok'
  END AS verdict,
  comm, pid, netid, local, backlog, queue_peak, round(queue_avg, 1) AS queue_avg,
  round(100.0 * fill, 1) AS fill_percent,
  CASE WHEN queue_peak IS NOT NULL THEN round(100.0 * full_samples / samples, 1) END AS full_percent,
  round(full_us / 1000000.0, 1) AS full_s, round(wait_us / 1000000.0, 1) AS wait_s, round(stood_us / 1000000.0, 1) AS stood_s,
  gave_up, full_since AS since, full_until AS until,
  drops, syn_recv_peak, namespace_overflows, namespace_drops, netns, cookie
FROM ranked CROSS JOIN params
ORDER BY place
