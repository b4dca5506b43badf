-- title = "Counters of the kernel that moved"
-- description = """
-- What the kernel itself counted in this time, per network namespace: the evidence that does not
-- depend on what samples happened to show. Counters that mean trouble come first, the gravest first,
-- each with what it means and the report to read next; then the others, fastest first. One that
-- moved once is history; one with its peak rate at the time of the incident is a cause or a symptom.
-- Values that are levels rather than counts (sockets in use, memory in pages) are gauges: their
-- growth may be negative, and they have no rate. Counters cover a whole namespace; the other reports
-- say who was hit. A recording without counters has no rows.
-- """
-- needs = ["counters"]
-- uses = ["netns_of"]
-- ranks = [
--   "name", "growth", "meaning", "netns", "report", "peak_per_s", "peak_time", "growth_per_s", "first", "peak",
--   "last",
-- ]
--
-- [columns]
-- netns = "Inode number of the network namespace; 0 for the whole host."
-- source = "File of /proc: snmp, snmp6, netstat, sockstat, sockstat6, softnet_stat, nf_conntrack, file-nr."
-- name = "Name as the file has it, the group before: Tcp.ActiveOpens."
-- kind = "counter or gauge."
-- growth = "What it grew by, from the first reading to the last; of a gauge last less first."
-- growth_per_s = "The same per second."
-- peak_per_s = "Most it grew by per second, from one sample to the next."
-- peak_time = "Sample at the end of that span; of a gauge the first one with the peak."
-- first = "Value at the first reading."
-- peak = "Largest value at a reading."
-- last = "Value at the last reading."
-- meaning = "What it means, if it means trouble."
-- report = "Report to read next."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many counters are listed; 0 lists all."
--
-- [params.pattern]
-- type = "VARCHAR"
-- default = "%"
-- doc = "Only counters of such a name, % for any letters and _ for any one: TcpExt.%, udp%. Upper and lower case are the same."
--
-- [params.all]
-- type = "BOOLEAN"
-- default = false
-- doc = "Also those that did not move."
--
-- [chart]
-- mark = "bar"
-- x = { field = "growth", type = "quantitative" }
-- y = { field = "name", sort = "-x" }
WITH meanings (place, name, report, meaning) AS (
  VALUES
    (1, 'TcpExt.ListenOverflows', 'listen_queues', 'Connections refused as an accept queue was full: its process does not accept fast enough.'),
    (2, 'TcpExt.ListenDrops', 'listen_queues', 'Connections dropped at a listener for any reason, full accept queues included.'),
    (3, 'TcpExt.TCPReqQFullDrop', 'syn_backlog', 'Connection requests dropped as a listener had too many half open ones.'),
    (4, 'TcpExt.TCPReqQFullDoCookies', 'syn_backlog', 'Requests answered by a cookie as a listener had too many half open ones: a flood, or a backlog too small.'),
    (5, 'TcpExt.SyncookiesSent', 'syn_backlog', 'SYN cookies sent: options of TCP are lost for these connections.'),
    (6, 'TcpExt.SyncookiesFailed', 'syn_backlog', 'Answers to SYN cookies that were not valid.'),
    (7, 'TcpExt.TCPTimeWaitOverflow', 'time_wait', 'Sockets that skipped TIME-WAIT as tcp_max_tw_buckets are there already.'),
    (8, 'TcpExt.TCPAbortOnMemory', 'orphans', 'Connections reset as there were too many orphans or no memory for them.'),
    (9, 'TcpExt.TCPMemoryPressures', 'memory', 'Times that TCP came under pressure of memory (tcp_mem).'),
    (10, 'TcpExt.TCPMemoryPressuresChrono', 'memory', 'Milliseconds that TCP was under pressure of memory.'),
    (11, 'TcpExt.PruneCalled', 'memory', 'Receive queues squeezed for lack of buffer: a process does not read, or buffers are small.'),
    (12, 'TcpExt.RcvPruned', 'memory', 'Segments dropped as squeezing a receive queue did not help.'),
    (13, 'TcpExt.OfoPruned', 'memory', 'Out-of-order segments thrown away for lack of buffer: they must be sent again.'),
    (14, 'TcpExt.TCPRcvQDrop', 'queue_growth', 'Segments dropped as the receive queue was full.'),
    (15, 'TcpExt.TCPBacklogDrop', 'queue_growth', 'Segments dropped as the socket was locked and its backlog full.'),
    (16, 'TcpExt.TCPZeroWindowDrop', 'queue_growth', 'Segments that came though the window was shut, dropped.'),
    (17, 'TcpExt.TCPToZeroWindowAdv', 'queue_growth', 'Times that a full receive queue shut the window: a process does not read.'),
    (18, 'TcpExt.TCPWantZeroWindowAdv', 'queue_growth', 'Times that a window was to be shut and could not be yet.'),
    (19, 'TcpExt.TCPWqueueTooBig', 'memory', 'Writes or fragmentations refused as a send queue was too big.'),
    (20, 'TcpExt.PFMemallocDrop', 'memory', 'Packets dropped as only memory reserved for emergencies was left.'),
    (21, 'softnet.dropped', 'counters', 'Packets dropped as the queue of a CPU was full (net.core.netdev_max_backlog).'),
    (22, 'Udp.RcvbufErrors', 'udp_drops', 'IPv4 datagrams dropped as a receive buffer was full.'),
    (23, 'Udp6RcvbufErrors', 'udp_drops', 'IPv6 datagrams dropped as a receive buffer was full.'),
    (24, 'Udp.MemErrors', 'udp_drops', 'IPv4 datagrams dropped for lack of UDP memory (udp_mem).'),
    (25, 'Udp6MemErrors', 'udp_drops', 'IPv6 datagrams dropped for lack of UDP memory (udp_mem).'),
    (26, 'Udp.SndbufErrors', 'udp_drops', 'IPv4 datagrams not sent as a send buffer was full.'),
    (27, 'Udp6SndbufErrors', 'udp_drops', 'IPv6 datagrams not sent as a send buffer was full.'),
    (28, 'Udp.InErrors', 'udp_drops', 'IPv4 datagrams not delivered, for any reason.'),
    (29, 'Udp6InErrors', 'udp_drops', 'IPv6 datagrams not delivered, for any reason.'),
    (30, 'Udp.NoPorts', 'udp_drops', 'IPv4 datagrams to a port where nobody listens.'),
    (31, 'Udp6NoPorts', 'udp_drops', 'IPv6 datagrams to a port where nobody listens.'),
    (32, 'Tcp.AttemptFails', 'churn', 'Connections that failed to open: refused, reset or not answered.'),
    (33, 'TcpExt.TCPTimeouts', 'retransmits', 'Retransmission timeouts: the network or the peer did not answer for long.'),
    (34, 'TcpExt.TCPSynRetrans', 'retransmits', 'SYN or SYN-ACK sent again: a peer or a listener did not answer.'),
    (35, 'Tcp.RetransSegs', 'retransmits', 'Segments sent again: losses.'),
    (36, 'TcpExt.TCPLostRetransmit', 'retransmits', 'Segments lost again after they were sent again.'),
    (37, 'TcpExt.TCPSpuriousRTOs', 'retransmits', 'Timeouts that were not needed: round trips became longer all at once.'),
    (38, 'TcpExt.TCPRetransFail', 'retransmits', 'Segments that could not be sent again, for lack of memory or in a full queue of a device.'),
    (39, 'TcpExt.TCPAbortOnTimeout', 'stalls', 'Connections given up as the peer did not answer.'),
    (40, 'TcpExt.TCPAbortOnData', 'churn', 'Connections reset by their own process, as data came after it closed or it asked not to linger.'),
    (41, 'TcpExt.TCPAbortOnClose', 'churn', 'Connections reset by their own process, as it closed them with data unread.'),
    (42, 'TcpExt.TCPAbortFailed', 'churn', 'Resets that could not be sent.'),
    (43, 'Tcp.EstabResets', 'churn', 'Established connections that ended by a reset, from either end.'),
    (44, 'Tcp.OutRsts', 'churn', 'Resets sent: to who asks for a closed port, or of connections aborted.'),
    (45, 'TcpExt.EmbryonicRsts', 'syn_backlog', 'Connections reset before they were open.'),
    (46, 'TcpExt.TCPFastOpenListenOverflow', 'listen_queues', 'Fast Open requests refused as too many were pending.'),
    (47, 'TcpExt.TCPMigrateReqFailure', 'listen_queues', 'Connections lost as their listener closed.'),
    (48, 'TcpExt.TCPDeferAcceptDrop', 'listen_queues', 'Requests dropped as the client sent nothing (TCP_DEFER_ACCEPT).'),
    (49, 'TcpExt.PAWSEstab', 'connections', 'Segments dropped as their timestamp was old.'),
    (50, 'TcpExt.PAWSActive', 'connections', 'Answers to a SYN dropped as their timestamp was old: addresses shared by a translator.'),
    (51, 'TcpExt.TCPSACKReneging', 'retransmits', 'Times that a peer took back what it had acknowledged: it is short of memory, or broken.'),
    (52, 'TcpExt.TCPChallengeACK', 'connections', 'Segments outside of the window that might be an attack.'),
    (53, 'TcpExt.TCPOFODrop', 'memory', 'Out-of-order segments dropped for lack of buffer.'),
    (54, 'Tcp.InErrs', 'connections', 'Segments that were broken or made no sense.'),
    (55, 'Tcp.InCsumErrors', 'connections', 'Segments with a wrong checksum: a device or a cable.'),
    (56, 'Udp.InCsumErrors', 'udp_drops', 'IPv4 datagrams with a wrong checksum.'),
    (57, 'Udp6InCsumErrors', 'udp_drops', 'IPv6 datagrams with a wrong checksum.'),
    (58, 'TcpExt.TCPMD5NotFound', 'connections', 'Segments without the MD5 signature that was asked for.'),
    (59, 'TcpExt.TCPMD5Failure', 'connections', 'Segments with a wrong MD5 signature.'),
    (60, 'TcpExt.IPReversePathFilter', 'connections', 'Packets dropped as their source is not reached through the device they came by.'),
    (61, 'Ip.InDiscards', 'memory', 'IPv4 packets dropped though nothing was wrong with them: for lack of memory.'),
    (62, 'Ip.OutDiscards', 'memory', 'IPv4 packets not sent though nothing was wrong with them: full queues or no memory.'),
    (63, 'Ip6InDiscards', 'memory', 'IPv6 packets dropped though nothing was wrong with them.'),
    (64, 'Ip6OutDiscards', 'memory', 'IPv6 packets not sent though nothing was wrong with them.'),
    (65, 'Ip.OutNoRoutes', 'connections', 'IPv4 packets not sent as there was no way to their target.'),
    (66, 'Ip6OutNoRoutes', 'connections', 'IPv6 packets not sent as there was no way to their target.'),
    (67, 'Ip.ReasmFails', 'connections', 'IPv4 packets lost as a fragment did not come.'),
    (68, 'Ip6ReasmFails', 'connections', 'IPv6 packets lost as a fragment did not come.'),
    (69, 'nf_conntrack.drop', 'counters', 'Connections not tracked, and dropped, as the table of nf_conntrack was full.'),
    (70, 'nf_conntrack.early_drop', 'counters', 'Tracked connections thrown out to make room for new ones.'),
    (71, 'nf_conntrack.insert_failed', 'counters', 'Connections that could not be put into the table of nf_conntrack.'),
    (72, 'MPTcpExt.MPFailRx', 'connections', 'MPTCP connections whose peer found wrong data.'),
    (73, 'MPTcpExt.MPCapableFallbackACK', 'connections', 'MPTCP connections that fell back to TCP.'),
    (74, 'softnet.squeezed', 'counters', 'Times that a CPU had packets left when its time to handle them was over (net.core.netdev_budget).')
),
readings AS (
  SELECT ns, sample, min(sample_time) AS sample_time, min(t_us) AS t_us
  FROM samples
  WHERE step IN ('counters', 'counters_after') AND outcome IN ('ok', 'partial')
  GROUP BY ns, sample
  UNION ALL
  -- A file of counters alone says no more than when they changed.
  SELECT ns, sample, min(sample_time) AS sample_time, min(t_us) AS t_us
  FROM counters
  WHERE NOT EXISTS (SELECT 1 FROM samples)
  GROUP BY ns, sample
),
paces AS (
  SELECT ns, sample, sample_time, t_us - lag(t_us) OVER (PARTITION BY ns ORDER BY sample) AS dt_us
  FROM readings
),
spans AS (
  SELECT
    ns, min(sample) AS first_sample, max(sample) AS last_sample, min(sample_time) AS first_time,
    max(t_us) - min(t_us) AS wide_us
  FROM readings
  GROUP BY ns
),
changes AS (
  -- Changes only, those before the scope too: a value holds until the next.
  SELECT
    c.ns, c.source, c.name, c.sample, 2 * c.sample + CASE WHEN c.phase = 'after' THEN 1 ELSE 0 END AS place, c.value,
    lag(c.value) OVER (PARTITION BY c.ns, c.source, c.name ORDER BY c.sample, c.phase DESC, c.value NULLS FIRST) AS former
  FROM raw.counters AS c CROSS JOIN params
  WHERE lower(c.name) LIKE lower(params.pattern)
),
marked AS (
  SELECT
    c.ns, c.source, c.name, c.sample, c.place, c.value, c.place > 2 * s.first_sample AS later,
    -- What is new, or fell, was made anew.
    CASE WHEN c.place > 2 * s.first_sample AND c.value >= c.former THEN c.value - c.former END AS more
  FROM changes AS c JOIN spans AS s ON s.ns = c.ns AND c.place <= 2 * s.last_sample + 1
  WHERE c.value IS NOT NULL
),
rates AS (
  SELECT
    s.ns, s.source, s.name, p.sample_time AS peak_time, 1000000.0 * s.more / p.dt_us AS peak_per_s
  FROM (
    SELECT ns, source, name, sample, sum(more) AS more
    FROM marked
    WHERE more > 0
    GROUP BY ns, source, name, sample
  ) AS s
  JOIN paces AS p USING (ns, sample)
  WHERE p.dt_us > 0
  QUALIFY row_number() OVER (PARTITION BY s.ns, s.source, s.name ORDER BY 1.0 * s.more / p.dt_us DESC, s.sample) = 1
),
starts AS (
  -- The value at the first reading is the last one given until then, else the first one after.
  SELECT
    ns, source, name,
    coalesce(max_by(value, place) FILTER (WHERE NOT later), min_by(value, place)) AS first,
    max_by(value, place) AS last, max(value) FILTER (WHERE later) AS peak, count(*) FILTER (WHERE later) AS moves,
    CAST(coalesce(sum(more), 0) AS BIGINT) AS growth
  FROM marked
  GROUP BY ns, source, name
),
tops AS (
  SELECT ns, source, name, value AS peak, min(sample) AS sample
  FROM marked
  WHERE later
  GROUP BY ns, source, name, value
),
judged AS (
  SELECT
    * REPLACE (greatest(peak, first) AS peak),
    source IN ('sockstat', 'sockstat6', 'file-nr')
      OR (source = 'nf_conntrack' AND name IN ('count', 'max', 'entries'))
      OR (source = 'softnet_stat' AND split_part(name, '.', 2) IN ('backlog', 'input_queue', 'process_queue'))
      OR name IN (
        'Tcp.CurrEstab', 'Tcp.RtoAlgorithm', 'Tcp.RtoMin', 'Tcp.RtoMax', 'Tcp.MaxConn',
        'MPTcpExt.MPCurrEstab', 'Ip.Forwarding', 'Ip.DefaultTTL'
      ) AS gauge,
    CASE
      WHEN source = 'softnet_stat' THEN concat('softnet.', split_part(name, '.', 2))
      WHEN source = 'nf_conntrack' THEN concat('nf_conntrack.', name)
      ELSE name
    END AS known_as
  FROM starts
),
picked AS (
  SELECT
    j.ns, j.source, j.name, j.gauge,
    CASE WHEN j.gauge THEN j.last - j.first ELSE j.growth END AS growth,
    CASE WHEN NOT j.gauge THEN 1000000.0 * j.growth / nullif(s.wide_us, 0) END AS per_s,
    CASE WHEN NOT j.gauge THEN r.peak_per_s END AS peak_per_s,
    CASE
      WHEN NOT j.gauge THEN r.peak_time
      WHEN j.peak = j.first THEN s.first_time
      ELSE p.sample_time
    END AS peak_time,
    j.first, j.peak, j.last, m.meaning, m.report,
    row_number() OVER (
      ORDER BY
        CASE WHEN j.growth > 0 THEN m.place END NULLS LAST, j.moves = 0, j.gauge, j.growth DESC, m.place NULLS LAST,
        j.name, j.source, j.ns
    ) AS line
  FROM judged AS j
  CROSS JOIN params AS a
  JOIN spans AS s USING (ns)
  LEFT JOIN rates AS r USING (ns, source, name)
  LEFT JOIN tops AS t USING (ns, source, name, peak)
  LEFT JOIN paces AS p ON p.ns = t.ns AND p.sample = t.sample
  LEFT JOIN meanings AS m ON m.name = j.known_as
  WHERE a.all OR (NOT j.gauge AND j.growth > 0) OR (j.gauge AND (j.peak > j.first OR j.last <> j.first))
  QUALIFY a.top = 0 OR line <= a.top
)
SELECT
  netns_of(ns) AS netns, source, name, CASE WHEN gauge THEN 'gauge' ELSE 'counter' END AS kind, growth,
  round(per_s, 2) AS growth_per_s, round(peak_per_s, 2) AS peak_per_s, peak_time, first, peak, last, meaning, report
FROM picked
ORDER BY line
