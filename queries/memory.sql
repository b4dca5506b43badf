-- title = "Memory of socket buffers"
-- description = """
-- Who holds the memory of the sockets' buffers, and how near the host is to its limits. The first
-- lines are of the whole host, one per protocol that has a limit: near net.ipv4.tcp_mem (udp_mem)
-- the kernel shrinks windows, throws away what it had received and aborts connections, of every
-- process. Then come the processes, those with most first. Memory received that grows is a process
-- that does not read (read queue_growth), memory to send a peer or a network that does not take it
-- (read stalls); memory reserved is kept for a while and given back. Each byte is counted once, with
-- the socket that is charged for it: what one end of a unix socket wrote counts for the writer until
-- it is read. The kernel's own figure has its reserves in it and sockets of namespaces that were not
-- recorded. A value is empty where the kernel did not report it: TIME-WAIT has no buffers, /proc
-- shows no memory, and limits are not shown outside of the host's first network namespace.
-- """
-- needs = ["sockets"]
-- uses = ["counter_growth", "kernel_memory", "kind_of", "larger", "memory_limits", "table_reads"]
-- ranks = [
--   "comm", "pid", "kind", "peak_bytes", "limit_percent", "says", "last_bytes", "growth_bytes", "sockets",
--   "peak_time", "share_percent",
-- ]
--
-- [columns]
-- pid = "Process, the oldest of several that hold the sockets; empty for the host."
-- comm = "Name of the process; host: all processes; nothing: sockets without a known process."
-- kind = "Table of the kernel: tcp, udp, unix …"
-- sockets = "Sockets in the sample with the peak."
-- first_bytes = "Buffer memory in the first sample that saw this kind (skmem: r + the larger of t and w + f + o + bl)."
-- peak_bytes = "Most of it in one sample."
-- last_bytes = "The same in the last sample that saw this kind."
-- growth_bytes = "last less first."
-- peak_time = "First sample with the peak."
-- received_bytes = "Of the peak: received and not yet read, or not yet processed (r + bl)."
-- unsent_bytes = "Of the peak: to be sent, or sent and not acknowledged (the larger of t and w)."
-- reserved_bytes = "Of the peak: reserved ahead, and socket options (f + o)."
-- share_percent = "Share of last in all that sockets of this kind hold."
-- kernel_bytes = "Most that the kernel itself counted, of the whole host (TCP.mem and UDP.mem of sockstat, in pages of 4096 bytes)."
-- pressure_bytes = "Limit above which the kernel saves memory: the second value of tcp_mem or udp_mem, in pages of 4096 bytes."
-- limit_bytes = "Limit that is never passed: the third value."
-- limit_percent = "Share of the larger of peak_bytes and kernel_bytes in that limit."
-- says = "What the kernel did for lack of memory in this time, by its own counters, in the host's lines only."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many processes are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "peak_bytes", type = "quantitative" }
-- y = { field = "comm", sort = "-x" }
-- color = { field = "kind" }
WITH held AS (
  SELECT
    sample, sample_time, kind_of(netid) AS kind, pid, start_us, comm,
    rmem_alloc + backlog AS received, larger(wmem_alloc, wmem_queued) AS unsent, fwd_alloc + optmem AS reserved
  FROM sockets
),
counted AS (
  SELECT
    coalesce(pid, -1) AS holder, coalesce(start_us, -1) AS start_us, kind, sample, min(sample_time) AS sample_time,
    max(comm) AS comm, count(received) AS sockets, sum(received) AS received, sum(unsent) AS unsent,
    sum(reserved) AS reserved, sum(received + unsent + reserved) AS memory
  FROM held
  GROUP BY pid, start_us, kind, sample
),
ends AS (
  SELECT kind, min(sample) AS first_sample, max(sample) AS last_sample
  FROM (SELECT kind, sample FROM table_reads GROUP BY kind, sample HAVING bool_and(whole)) AS seen
  GROUP BY kind
),
everyone AS (
  -- The host is one more holder.
  SELECT * FROM counted
  UNION ALL BY NAME
  SELECT
    -2 AS holder, -1 AS start_us, kind, sample, min(sample_time) AS sample_time, 'host' AS comm, sum(sockets) AS sockets,
    sum(received) AS received, sum(unsent) AS unsent, sum(reserved) AS reserved, sum(memory) AS memory
  FROM counted
  GROUP BY kind, sample
),
placed AS (
  SELECT *, row_number() OVER (PARTITION BY holder, start_us, kind ORDER BY memory DESC NULLS LAST, sample) AS place
  FROM everyone
),
summed AS (
  SELECT
    p.holder, p.start_us, p.kind, max_by(p.comm, p.sample) AS comm, max(p.memory) AS peak,
    max(p.sockets) FILTER (WHERE p.place = 1) AS sockets, max(p.sample_time) FILTER (WHERE p.place = 1) AS peak_time,
    max(p.received) FILTER (WHERE p.place = 1) AS received, max(p.unsent) FILTER (WHERE p.place = 1) AS unsent,
    max(p.reserved) FILTER (WHERE p.place = 1) AS reserved,
    -- Without such sockets, or with none but TIME-WAIT, a process holds nothing.
    CASE WHEN e.first_sample IS NOT NULL THEN coalesce(max(p.memory) FILTER (WHERE p.sample = e.first_sample), 0) END AS first,
    CASE WHEN e.last_sample IS NOT NULL THEN coalesce(max(p.memory) FILTER (WHERE p.sample = e.last_sample), 0) END AS last
  FROM placed AS p LEFT JOIN ends AS e USING (kind)
  GROUP BY p.holder, p.start_us, p.kind, e.first_sample, e.last_sample
  HAVING max(p.memory) IS NOT NULL
),
kernel AS (
  SELECT kind, max(bytes) AS peak
  FROM kernel_memory
  GROUP BY kind
),
deeds (kind, place, name, words) AS (
  VALUES
    ('tcp', 1, 'TcpExt.TCPMemoryPressures', 'times under pressure'),
    ('tcp', 2, 'TcpExt.TCPMemoryPressuresChrono', 'ms under pressure'),
    ('tcp', 3, 'TcpExt.TCPAbortOnMemory', 'connections aborted'),
    ('tcp', 4, 'TcpExt.PruneCalled', 'receive queues squeezed'),
    ('tcp', 5, 'TcpExt.RcvPruned', 'queues still too long'),
    ('tcp', 6, 'TcpExt.OfoPruned', 'out-of-order queues thrown away'),
    ('tcp', 7, 'TcpExt.TCPRcvQDrop', 'segments dropped for a full queue'),
    ('tcp', 8, 'TcpExt.TCPBacklogDrop', 'segments dropped for a full backlog'),
    ('tcp', 9, 'TcpExt.TCPWqueueTooBig', 'writes refused'),
    ('udp', 1, 'Udp.MemErrors', 'datagrams dropped over IPv4'),
    ('udp', 2, 'Udp6MemErrors', 'datagrams dropped over IPv6')
),
said AS (
  SELECT
    kind, sum(growth) AS deeds,
    string_agg(concat(growth, ' ', words), '; ' ORDER BY place) FILTER (WHERE growth > 0) AS words
  FROM (
    SELECT d.kind, d.place, d.words, CAST(sum(g.growth) AS BIGINT) AS growth
    FROM deeds AS d JOIN counter_growth AS g USING (name)
    GROUP BY d.kind, d.place, d.words
  ) AS done
  GROUP BY kind
),
lines AS (
  SELECT 0 AS place, kind, -2 AS holder, -1 AS start_us
  FROM (SELECT kind FROM kernel UNION SELECT kind FROM summed) AS kinds
  WHERE kind IN ('tcp', 'udp')
  UNION ALL
  SELECT r.place, s.kind, s.holder, s.start_us
  FROM summed AS s
  JOIN (
    SELECT holder, start_us, row_number() OVER (ORDER BY sum(peak) DESC NULLS LAST, holder, start_us) AS place
    FROM summed
    WHERE holder > -2
    GROUP BY holder, start_us
  ) AS r USING (holder, start_us)
  CROSS JOIN params
  WHERE s.peak > 0 AND (params.top = 0 OR r.place <= params.top)
),
measured AS (
  SELECT
    l.place, l.kind, l.holder, CASE WHEN l.place = 0 THEN 'host' ELSE s.comm END AS comm,
    s.sockets, s.first, s.peak, s.last, s.peak_time, s.received, s.unsent, s.reserved, h.last AS host_last,
    k.peak AS kernel, greatest(k.peak, s.peak) AS most
  FROM lines AS l
  LEFT JOIN summed AS s USING (holder, start_us, kind)
  LEFT JOIN summed AS h ON h.holder = -2 AND h.kind = l.kind
  LEFT JOIN kernel AS k ON k.kind = l.kind AND l.place = 0
)
SELECT
  CASE WHEN m.holder >= 0 THEN m.holder END AS pid, m.comm, m.kind, CAST(m.sockets AS BIGINT) AS sockets,
  CAST(m.first AS BIGINT) AS first_bytes, CAST(m.peak AS BIGINT) AS peak_bytes, CAST(m.last AS BIGINT) AS last_bytes,
  CAST(m.last - m.first AS BIGINT) AS growth_bytes, m.peak_time, CAST(m.received AS BIGINT) AS received_bytes,
  CAST(m.unsent AS BIGINT) AS unsent_bytes, CAST(m.reserved AS BIGINT) AS reserved_bytes,
  CASE WHEN m.place > 0 THEN round(100.0 * m.last / nullif(m.host_last, 0), 1) END AS share_percent,
  m.kernel AS kernel_bytes, CASE WHEN m.place = 0 THEN l.pressure END AS pressure_bytes,
  CASE WHEN m.place = 0 THEN l.high END AS limit_bytes, round(100.0 * m.most / nullif(l.high, 0), 1) AS limit_percent,
  CASE
    WHEN m.place > 0 THEN NULL
    WHEN m.most > l.pressure OR d.deeds > 0
      THEN concat_ws('; ', CASE WHEN m.most > l.pressure THEN 'above the mark of pressure' END, d.words)
    WHEN d.deeds = 0 THEN 'nothing'
  END AS says
FROM measured AS m
LEFT JOIN memory_limits AS l USING (kind)
LEFT JOIN said AS d USING (kind)
ORDER BY m.place, m.peak DESC NULLS LAST, m.kind
