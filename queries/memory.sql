-- title = "Memory of socket buffers"
-- description = """
-- Who holds the memory of the sockets' buffers, and how near the host is to its limits. The first
-- lines are of the whole host, one per protocol that has a limit: near net.ipv4.tcp_mem (udp_mem) the
-- kernel shrinks windows, throws away what it had received and aborts connections, of every process.
-- Then come the processes, those with most first. Memory received that grows is a process that does
-- not read (read queue_growth), memory to send a peer or a network that does not take it (read
-- stalls); memory reserved is kept for a while and given back. Each byte is counted once, with the
-- socket that is charged for it: what one end of a unix socket wrote stands with the writer until it
-- is read. The kernel's own figure has its reserves in it and sockets of namespaces that were not
-- recorded. Nothing stands where the kernel did not tell: TIME-WAIT has no buffers, /proc tells no
-- memory, and limits are not shown outside of the host's first network namespace.
-- """
-- needs = ["sockets"]
--
-- [columns]
-- pid = "Process, the oldest of several that hold the sockets; nothing for the host."
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
    sample,
    sample_time,
    CASE
      WHEN netid IN ('u_str', 'u_seq', 'u_dgr') THEN 'unix'
      WHEN netid IN ('p_raw', 'p_dgr') THEN 'packet'
      WHEN netid = 'nl' THEN 'netlink'
      WHEN netid IN ('v_str', 'v_dgr', 'v_seq') THEN 'vsock'
      WHEN netid IN ('ti_st', 'ti_dg', 'ti_rd', 'ti_sq') THEN 'tipc'
      ELSE netid
    END AS kind,
    pid,
    start_us,
    comm,
    rmem_alloc + backlog AS received,
    CASE WHEN wmem_alloc > wmem_queued THEN wmem_alloc ELSE wmem_queued END AS unsent,
    fwd_alloc + optmem AS reserved
  FROM sockets
),
counted AS (
  SELECT
    coalesce(pid, -1) AS holder,
    coalesce(start_us, -1) AS start_us,
    kind,
    sample,
    min(sample_time) AS sample_time,
    max(comm) AS comm,
    count(received) AS sockets,
    sum(received) AS received,
    sum(unsent) AS unsent,
    sum(reserved) AS reserved,
    sum(received + unsent + reserved) AS memory
  FROM held
  GROUP BY pid, start_us, kind, sample
),
steps AS (
  SELECT
    sample,
    CASE WHEN step LIKE '%6' THEN substr(step, 1, length(step) - 1) ELSE step END AS kind,
    CASE WHEN outcome IN ('ok', 'skipped_empty') THEN 1 ELSE 0 END AS seen
  FROM samples
),
kinds AS (
  SELECT DISTINCT kind
  FROM counted
),
looks AS (
  SELECT sample, kind, seen
  FROM steps
  UNION ALL
  -- One step for all tables of a namespace without sockets, or of one whose turn it was not.
  SELECT steps.sample, kinds.kind, steps.seen
  FROM steps
  CROSS JOIN kinds
  WHERE steps.kind = 'all'
  UNION ALL
  -- A file of sockets alone does not say which tables were read: those of which it has rows.
  SELECT alone.sample, kinds.kind, 1 AS seen
  FROM (SELECT DISTINCT sample FROM counted) AS alone
  CROSS JOIN kinds
  WHERE NOT EXISTS (SELECT 1 FROM steps)
),
ends AS (
  SELECT kind, min(sample) AS first_sample, max(sample) AS last_sample
  FROM (SELECT kind, sample FROM looks GROUP BY kind, sample HAVING min(seen) = 1) AS seen
  GROUP BY kind
),
everyone AS (
  -- The host is one more holder.
  SELECT holder, start_us, kind, sample, sample_time, comm, sockets, received, unsent, reserved, memory
  FROM counted
  UNION ALL
  SELECT
    -2 AS holder,
    -1 AS start_us,
    kind,
    sample,
    min(sample_time) AS sample_time,
    'host' AS comm,
    sum(sockets) AS sockets,
    sum(received) AS received,
    sum(unsent) AS unsent,
    sum(reserved) AS reserved,
    sum(memory) AS memory
  FROM counted
  GROUP BY kind, sample
),
placed AS (
  SELECT
    everyone.*,
    row_number() OVER (PARTITION BY holder, start_us, kind ORDER BY memory DESC NULLS LAST, sample) AS place
  FROM everyone
),
summed AS (
  SELECT
    p.holder,
    p.start_us,
    p.kind,
    max_by(p.comm, p.sample) AS comm,
    max(CASE WHEN p.place = 1 THEN p.sockets END) AS sockets,
    max(CASE WHEN p.place = 1 THEN p.sample_time END) AS peak_time,
    max(p.memory) AS peak,
    max(CASE WHEN p.place = 1 THEN p.received END) AS received,
    max(CASE WHEN p.place = 1 THEN p.unsent END) AS unsent,
    max(CASE WHEN p.place = 1 THEN p.reserved END) AS reserved,
    -- Without such sockets, or with none but TIME-WAIT, a process holds nothing.
    CASE
      WHEN e.first_sample IS NOT NULL
        THEN coalesce(max(CASE WHEN p.sample = e.first_sample THEN p.memory END), 0)
    END AS first,
    CASE
      WHEN e.last_sample IS NOT NULL
        THEN coalesce(max(CASE WHEN p.sample = e.last_sample THEN p.memory END), 0)
    END AS last
  FROM placed AS p
  LEFT JOIN ends AS e
    ON e.kind = p.kind
  GROUP BY p.holder, p.start_us, p.kind, e.first_sample, e.last_sample
  HAVING max(p.memory) IS NOT NULL
),
kernel AS (
  -- One value for the whole host, shown in every namespace.
  SELECT CASE WHEN name = 'TCP.mem' THEN 'tcp' ELSE 'udp' END AS kind, 4096 * max(value) AS peak
  FROM counter_values
  WHERE source = 'sockstat' AND name IN ('TCP.mem', 'UDP.mem')
  GROUP BY name
),
limits AS (
  SELECT
    CASE WHEN name = 'net.ipv4.tcp_mem' THEN 'tcp' ELSE 'udp' END AS kind,
    4096 * TRY_CAST(split_part(max_by(value, t_us), ' ', 2) AS BIGINT) AS pressure,
    4096 * TRY_CAST(split_part(max_by(value, t_us), ' ', 3) AS BIGINT) AS most
  FROM settings
  WHERE name IN ('net.ipv4.tcp_mem', 'net.ipv4.udp_mem')
  GROUP BY name
),
changes AS (
  -- Counters before the scope too: a value holds until the next.
  SELECT
    sample,
    name,
    value - lag(value) OVER (
      PARTITION BY netns, name
      ORDER BY sample, CASE WHEN phase = 'after' THEN 1 ELSE 0 END, value NULLS FIRST
    ) AS more
  FROM raw.counters
  WHERE name IN (
    'TcpExt.TCPMemoryPressures', 'TcpExt.TCPMemoryPressuresChrono', 'TcpExt.PruneCalled',
    'TcpExt.RcvPruned', 'TcpExt.OfoPruned', 'TcpExt.TCPRcvQDrop', 'TcpExt.TCPBacklogDrop',
    'TcpExt.TCPAbortOnMemory', 'TcpExt.TCPWqueueTooBig', 'Udp.MemErrors', 'Udp6MemErrors'
  )
),
moved AS (
  SELECT
    c.name,
    CAST(sum(CASE WHEN i.sample IS NOT NULL AND c.more > 0 THEN c.more ELSE 0 END) AS BIGINT) AS growth
  FROM changes AS c
  LEFT JOIN (SELECT DISTINCT sample FROM counters) AS i
    ON i.sample = c.sample
  GROUP BY c.name
),
deeds AS (
  SELECT
    m.kind,
    m.words,
    m.place,
    max(g.growth) AS growth
  FROM (
    SELECT 'tcp' AS kind, 1 AS place, 'TcpExt.TCPMemoryPressures' AS name, 'times under pressure' AS words
    UNION ALL
    SELECT 'tcp', 2, 'TcpExt.TCPMemoryPressuresChrono', 'ms under pressure'
    UNION ALL
    SELECT 'tcp', 3, 'TcpExt.TCPAbortOnMemory', 'connections aborted'
    UNION ALL
    SELECT 'tcp', 4, 'TcpExt.PruneCalled', 'receive queues squeezed'
    UNION ALL
    SELECT 'tcp', 5, 'TcpExt.RcvPruned', 'queues still too long'
    UNION ALL
    SELECT 'tcp', 6, 'TcpExt.OfoPruned', 'out-of-order queues thrown away'
    UNION ALL
    SELECT 'tcp', 7, 'TcpExt.TCPRcvQDrop', 'segments dropped for a full queue'
    UNION ALL
    SELECT 'tcp', 8, 'TcpExt.TCPBacklogDrop', 'segments dropped for a full backlog'
    UNION ALL
    SELECT 'tcp', 9, 'TcpExt.TCPWqueueTooBig', 'writes refused'
    UNION ALL
    SELECT 'udp', 1, 'Udp.MemErrors', 'datagrams dropped over IPv4'
    UNION ALL
    SELECT 'udp', 2, 'Udp6MemErrors', 'datagrams dropped over IPv6'
  ) AS m
  LEFT JOIN moved AS g
    ON g.name = m.name
  GROUP BY m.kind, m.words, m.place
),
said AS (
  SELECT
    kind,
    count(growth) AS known,
    sum(growth) AS deeds,
    concat(
      max(CASE WHEN place = 1 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 2 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 3 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 4 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 5 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 6 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 7 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 8 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END),
      max(CASE WHEN place = 9 AND growth > 0 THEN concat('; ', growth, ' ', words) ELSE '' END)
    ) AS words
  FROM deeds
  GROUP BY kind
),
ranked AS (
  SELECT
    holder,
    start_us,
    row_number() OVER (ORDER BY sum(peak) DESC NULLS LAST, holder, start_us) AS place
  FROM summed
  WHERE holder > -2
  GROUP BY holder, start_us
),
lines AS (
  SELECT 0 AS place, kinds.kind, -2 AS holder, CAST(NULL AS BIGINT) AS start_us
  FROM (SELECT 'tcp' AS kind UNION ALL SELECT 'udp') AS kinds
  WHERE EXISTS (SELECT 1 FROM kernel WHERE kernel.kind = kinds.kind)
    OR EXISTS (SELECT 1 FROM summed WHERE summed.kind = kinds.kind)
  UNION ALL
  SELECT r.place, s.kind, s.holder, s.start_us
  FROM summed AS s
  JOIN ranked AS r
    ON r.holder = s.holder
    AND r.start_us = s.start_us
  CROSS JOIN params
  WHERE s.peak > 0 AND (params.top = 0 OR r.place <= params.top)
),
measured AS (
  SELECT
    l.place,
    l.kind,
    l.holder,
    CASE WHEN l.place = 0 THEN 'host' ELSE s.comm END AS comm,
    s.sockets,
    s.first,
    s.peak,
    s.last,
    s.peak_time,
    s.received,
    s.unsent,
    s.reserved,
    h.last AS host_last,
    k.peak AS kernel,
    CASE WHEN k.peak > s.peak OR s.peak IS NULL THEN k.peak ELSE s.peak END AS most
  FROM lines AS l
  LEFT JOIN summed AS s
    ON s.holder = l.holder
    AND s.start_us = coalesce(l.start_us, -1)
    AND s.kind = l.kind
  LEFT JOIN summed AS h
    ON h.holder = -2
    AND h.kind = l.kind
  LEFT JOIN kernel AS k
    ON k.kind = l.kind
    AND l.place = 0
)
SELECT
  CASE WHEN m.holder >= 0 THEN m.holder END AS pid,
  m.comm AS comm,
  m.kind AS kind,
  CAST(m.sockets AS BIGINT) AS sockets,
  CAST(m.first AS BIGINT) AS first_bytes,
  CAST(m.peak AS BIGINT) AS peak_bytes,
  CAST(m.last AS BIGINT) AS last_bytes,
  CAST(m.last - m.first AS BIGINT) AS growth_bytes,
  m.peak_time AS peak_time,
  CAST(m.received AS BIGINT) AS received_bytes,
  CAST(m.unsent AS BIGINT) AS unsent_bytes,
  CAST(m.reserved AS BIGINT) AS reserved_bytes,
  CASE WHEN m.place > 0 THEN round(100.0 * m.last / nullif(m.host_last, 0), 1) END AS share_percent,
  m.kernel AS kernel_bytes,
  CASE WHEN m.place = 0 THEN l.pressure END AS pressure_bytes,
  CASE WHEN m.place = 0 THEN l.most END AS limit_bytes,
  round(100.0 * m.most / nullif(l.most, 0), 1) AS limit_percent,
  CASE
    WHEN m.place > 0 THEN NULL
    WHEN d.deeds > 0 AND m.most > l.pressure THEN concat('above the mark of pressure', d.words)
    WHEN d.deeds > 0 THEN substr(d.words, 3)
    WHEN m.most > l.pressure THEN 'above the mark of pressure'
    WHEN d.known > 0 THEN 'nothing'
  END AS says
FROM measured AS m
LEFT JOIN limits AS l
  ON l.kind = m.kind
LEFT JOIN said AS d
  ON d.kind = m.kind
ORDER BY m.place, m.peak DESC NULLS LAST, m.kind
