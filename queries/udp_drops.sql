-- title = "UDP sockets that drop what arrives"
-- description = """
-- Who loses datagrams. The kernel drops a datagram when the receive buffer of its socket is full: the
-- process reads too slowly or not at all, or datagrams come in bursts that the buffer is too small
-- for. If samples saw the buffer full, look at what the process did since then; a larger buffer only
-- helps against bursts (SO_RCVBUF, net.core.rmem_max). Beside each socket stand the kernel's own
-- counters of its whole namespace (namespace_...), IPv4 and IPv6 together, the same in each of its
-- lines: more rcvbuf_errors than the sockets account for are drops of sockets that were closed before
-- a sample could show them, in a line without an address; mem_errors are a host out of UDP memory
-- (read memory); sndbuf_errors are lost when sent.
-- What the kernel did not tell is nothing, never 0: it counts drops per socket in sock_diag since
-- Linux 4.7.
-- """
-- needs = ["udp"]
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- pid = "Process that holds the socket, the last one known."
-- comm = "Name of the process."
-- local_addr = "Local address; nothing for sockets that no sample shows."
-- local_port = "Local port."
-- drops = "Datagrams the socket dropped in this time; nothing if the kernel did not tell."
-- verdict = "In words: reads too slowly, overrun by bursts, drops of sockets no sample shows, no drops, unknown."
-- since = "First sample that saw new drops."
-- until = "Last sample that saw new drops."
-- peak_per_s = "Most drops a second from one sample to the next."
-- peak_time = "Sample at the end of that span."
-- recv_q_peak_bytes = "Most memory that waited to be read in a sample (Recv-Q)."
-- rcvbuf_bytes = "Limit of that memory, in the last sample."
-- full_samples = "Samples that saw at least nine tenths of the buffer in use."
-- samples = "Samples that saw the socket."
-- drops_before = "Datagrams the socket had dropped before."
-- namespace_rcvbuf_errors = "Datagrams dropped in the namespace for a full receive buffer (RcvbufErrors)."
-- namespace_in_errors = "Datagrams not delivered in the namespace, for any reason (InErrors)."
-- namespace_mem_errors = "Of namespace_in_errors those for lack of UDP memory on the host (MemErrors)."
-- namespace_sndbuf_errors = "Datagrams not sent in the namespace, as the send buffer was full (SndbufErrors)."
-- namespace_loss_percent = "Share of namespace_in_errors in all datagrams that arrived in the namespace."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many sockets are listed, those with most drops, then those with the fullest buffer; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "drops", type = "quantitative" }
-- y = { field = "comm", sort = "-x" }
WITH watched AS (
  SELECT
    s.netns,
    s.cookie,
    max_by(s.pid, s.sample) AS pid,
    max_by(s.comm, s.sample) AS comm,
    max_by(s.local_addr, s.sample) AS local_addr,
    max_by(s.local_port, s.sample) AS local_port,
    min(s.sample) AS first_sample,
    count(*) AS samples,
    min_by(s.drops, s.sample) AS first_drops,
    max_by(s.drops, s.sample) AS last_drops,
    max(s.recv_q) AS recv_q_peak,
    max_by(s.rcvbuf, s.sample) AS rcvbuf,
    sum(CASE WHEN s.recv_q >= 0.9 * s.rcvbuf THEN 1 WHEN s.rcvbuf > 0 THEN 0 END) AS full_samples
  FROM sockets AS s
  WHERE s.netid IN ('udp', 'udplite')
  GROUP BY s.netns, s.cookie
),
former AS (
  SELECT netns, cookie, max(drops) AS drops
  FROM baseline
  WHERE netid IN ('udp', 'udplite')
  GROUP BY netns, cookie
),
begun AS (
  -- A socket that the first sample did not show has dropped nothing before it.
  SELECT netns, min(sample) AS first_sample
  FROM samples
  WHERE step IN ('udp', 'udp6', 'all') AND outcome IN ('ok', 'skipped_empty')
  GROUP BY netns
),
judged AS (
  SELECT
    w.netns,
    w.cookie,
    w.pid,
    w.comm,
    w.local_addr,
    w.local_port,
    w.samples,
    w.recv_q_peak,
    w.rcvbuf,
    w.full_samples,
    w.last_drops,
    CASE
      WHEN f.cookie IS NOT NULL THEN f.drops
      WHEN w.first_sample > b.first_sample AND w.last_drops IS NOT NULL THEN 0
      ELSE w.first_drops
    END AS drops_before
  FROM watched AS w
  LEFT JOIN former AS f
    ON f.netns = w.netns
    AND f.cookie = w.cookie
  LEFT JOIN begun AS b
    ON b.netns = w.netns
),
dropped AS (
  SELECT
    judged.*,
    CASE WHEN last_drops >= drops_before THEN last_drops - drops_before END AS drops
  FROM judged
),
chosen AS (
  SELECT d.*
  FROM (
    SELECT
      dropped.*,
      row_number() OVER (
        ORDER BY
          drops DESC NULLS LAST,
          1.0 * recv_q_peak / nullif(rcvbuf, 0) DESC NULLS LAST,
          netns,
          cookie
      ) AS place
    FROM dropped
  ) AS d
  CROSS JOIN params
  WHERE params.top = 0 OR d.place <= params.top
),
paces AS (
  SELECT
    s.netns,
    s.cookie,
    s.sample_time,
    s.t_us - lag(s.t_us) OVER (PARTITION BY s.netns, s.cookie ORDER BY s.sample) AS dt_us,
    s.drops - coalesce(
      lag(s.drops) OVER (PARTITION BY s.netns, s.cookie ORDER BY s.sample), c.drops_before
    ) AS more
  FROM sockets AS s
  JOIN chosen AS c
    ON c.netns = s.netns
    AND c.cookie = s.cookie
  WHERE c.drops > 0 AND s.netid IN ('udp', 'udplite')
),
rates AS (
  SELECT
    paces.*,
    1000000.0 * more / nullif(dt_us, 0) AS per_s,
    row_number() OVER (
      PARTITION BY netns, cookie ORDER BY 1.0 * more / nullif(dt_us, 0) DESC NULLS LAST, sample_time
    ) AS place
  FROM paces
),
times AS (
  SELECT
    netns,
    cookie,
    min(CASE WHEN more > 0 THEN sample_time END) AS since,
    max(CASE WHEN more > 0 THEN sample_time END) AS until,
    max(CASE WHEN place = 1 THEN per_s END) AS peak_per_s,
    max(CASE WHEN place = 1 THEN sample_time END) AS peak_time
  FROM rates
  GROUP BY netns, cookie
),
changes AS (
  -- Counters before the scope too: a value holds until the next.
  SELECT
    netns,
    sample,
    CASE
      WHEN name IN ('Udp.RcvbufErrors', 'Udp6RcvbufErrors') THEN 'rcvbuf'
      WHEN name IN ('Udp.InErrors', 'Udp6InErrors') THEN 'in'
      WHEN name IN ('Udp.MemErrors', 'Udp6MemErrors') THEN 'mem'
      WHEN name IN ('Udp.SndbufErrors', 'Udp6SndbufErrors') THEN 'sndbuf'
      ELSE 'datagrams'
    END AS name,
    value - lag(value) OVER (
      PARTITION BY netns, name
      ORDER BY sample, CASE WHEN phase = 'after' THEN 1 ELSE 0 END, value NULLS FIRST
    ) AS more
  FROM raw.counters
  WHERE source IN ('snmp', 'snmp6')
    AND name IN (
      'Udp.RcvbufErrors', 'Udp.InErrors', 'Udp.MemErrors', 'Udp.SndbufErrors', 'Udp.InDatagrams',
      'Udp6RcvbufErrors', 'Udp6InErrors', 'Udp6MemErrors', 'Udp6SndbufErrors', 'Udp6InDatagrams'
    )
),
moves AS (
  -- 0 says that the counter is known and did not move.
  SELECT
    c.netns,
    c.name,
    CASE WHEN i.sample IS NOT NULL AND c.more > 0 THEN c.more ELSE 0 END AS more
  FROM changes AS c
  LEFT JOIN (SELECT DISTINCT sample FROM counters) AS i
    ON i.sample = c.sample
),
counted AS (
  SELECT
    netns,
    CAST(sum(CASE WHEN name = 'rcvbuf' THEN more END) AS BIGINT) AS rcvbuf_errors,
    CAST(sum(CASE WHEN name = 'in' THEN more END) AS BIGINT) AS in_errors,
    CAST(sum(CASE WHEN name = 'mem' THEN more END) AS BIGINT) AS mem_errors,
    CAST(sum(CASE WHEN name = 'sndbuf' THEN more END) AS BIGINT) AS sndbuf_errors,
    CAST(sum(CASE WHEN name = 'datagrams' THEN more END) AS BIGINT) AS datagrams
  FROM moves
  GROUP BY netns
),
accounted AS (
  SELECT netns, sum(drops) AS drops
  FROM dropped
  GROUP BY netns
),
left_out AS (
  -- Sockets that --where did not choose: what they dropped is not to be called unseen.
  SELECT count(*) AS sockets
  FROM raw.sockets AS r
  JOIN (SELECT DISTINCT netns, sample FROM samples) AS i
    ON i.netns = r.netns
    AND i.sample = r.sample
  LEFT JOIN sockets AS s
    ON s.netns = r.netns
    AND s.cookie = r.cookie
    AND s.sample = r.sample
    AND s.netid IN ('udp', 'udplite')
  WHERE r.netid IN ('udp', 'udplite') AND s.cookie IS NULL
),
lines AS (
  SELECT
    c.netns,
    c.cookie,
    c.pid,
    c.comm,
    c.local_addr,
    c.local_port,
    c.drops,
    CASE
      WHEN c.drops IS NULL THEN 'unknown'
      WHEN c.drops = 0 THEN 'no drops'
      WHEN c.full_samples > 0 THEN 'reads too slowly'
      ELSE 'overrun by bursts'
    END AS verdict,
    t.since,
    t.until,
    t.peak_per_s,
    CASE WHEN t.peak_per_s > 0 THEN t.peak_time END AS peak_time,
    c.recv_q_peak,
    c.rcvbuf,
    c.full_samples,
    c.samples,
    c.drops_before
  FROM chosen AS c
  LEFT JOIN times AS t
    ON t.netns = c.netns
    AND t.cookie = c.cookie
  UNION ALL
  -- A tenth is what the sockets may fall behind the counters, which are read after them.
  SELECT
    n.netns,
    CAST(NULL AS BIGINT) AS cookie,
    CAST(NULL AS INTEGER) AS pid,
    CAST(NULL AS VARCHAR) AS comm,
    CAST(NULL AS VARCHAR) AS local_addr,
    CAST(NULL AS INTEGER) AS local_port,
    CAST(n.rcvbuf_errors - coalesce(a.drops, 0) AS BIGINT) AS drops,
    'drops of sockets no sample shows' AS verdict,
    CAST(NULL AS TIMESTAMP) AS since,
    CAST(NULL AS TIMESTAMP) AS until,
    CAST(NULL AS DOUBLE) AS peak_per_s,
    CAST(NULL AS TIMESTAMP) AS peak_time,
    CAST(NULL AS BIGINT) AS recv_q_peak,
    CAST(NULL AS BIGINT) AS rcvbuf,
    CAST(NULL AS BIGINT) AS full_samples,
    CAST(NULL AS BIGINT) AS samples,
    CAST(NULL AS BIGINT) AS drops_before
  FROM counted AS n
  LEFT JOIN accounted AS a
    ON a.netns = n.netns
  CROSS JOIN left_out AS o
  WHERE o.sockets = 0 AND n.rcvbuf_errors > 0 AND coalesce(a.drops, 0) < 0.9 * n.rcvbuf_errors
)
SELECT
  l.netns AS netns,
  l.pid AS pid,
  l.comm AS comm,
  l.local_addr AS local_addr,
  l.local_port AS local_port,
  l.drops AS drops,
  l.verdict AS verdict,
  l.since AS since,
  l.until AS until,
  round(l.peak_per_s, 1) AS peak_per_s,
  l.peak_time AS peak_time,
  l.recv_q_peak AS recv_q_peak_bytes,
  l.rcvbuf AS rcvbuf_bytes,
  CAST(l.full_samples AS BIGINT) AS full_samples,
  l.samples AS samples,
  l.drops_before AS drops_before,
  n.rcvbuf_errors AS namespace_rcvbuf_errors,
  n.in_errors AS namespace_in_errors,
  n.mem_errors AS namespace_mem_errors,
  n.sndbuf_errors AS namespace_sndbuf_errors,
  round(100.0 * n.in_errors / nullif(n.in_errors + n.datagrams, 0), 1) AS namespace_loss_percent
FROM lines AS l
LEFT JOIN counted AS n
  ON n.netns = l.netns
ORDER BY
  l.drops DESC NULLS LAST,
  1.0 * l.recv_q_peak / nullif(l.rcvbuf, 0) DESC NULLS LAST,
  l.netns,
  l.cookie NULLS LAST
