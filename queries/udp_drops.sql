-- title = "UDP sockets that drop what arrives"
-- description = """
-- Who loses datagrams. The kernel drops a datagram when the receive buffer of its socket is full:
-- the process reads too slowly or not at all, or datagrams come in bursts that the buffer is too
-- small for. If samples saw the buffer full, look at what the process did since then; a larger
-- buffer only helps against bursts (SO_RCVBUF, net.core.rmem_max). Beside each socket stand the
-- kernel's own counters of its whole namespace (namespace_...), IPv4 and IPv6 together, the same in
-- each of its lines: more rcvbuf_errors than the sockets account for are drops of sockets that were
-- closed before a sample could show them, in a line without an address; mem_errors mean a host out
-- of UDP memory (read memory); sndbuf_errors count what was lost when sent. What the kernel did not
-- report is empty, never 0: it counts drops per socket in sock_diag since Linux 4.7.
-- """
-- needs = ["udp"]
-- uses = ["counter_growth", "left_out", "netns_of", "udp_sockets"]
-- ranks = [
--   "comm", "pid", "local_addr", "local_port", "drops", "verdict", "peak_per_s", "since", "until", "full_samples",
--   "namespace_rcvbuf_errors", "namespace_mem_errors",
-- ]
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- pid = "Process that holds the socket, the last one known."
-- comm = "Name of the process."
-- local_addr = "Local address; empty for sockets that no sample shows."
-- local_port = "Local port."
-- drops = "Datagrams the socket dropped in this time; empty if the kernel did not tell."
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
-- namespace_loss_percent = "Share of namespace_in_errors in the datagrams that were read or not delivered in the namespace; what lies unread is in neither."
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
WITH watched AS MATERIALIZED (
  SELECT * FROM udp_sockets
),
picked AS (
  SELECT
    u.*, row_number() OVER (ORDER BY drops DESC NULLS LAST, 1.0 * recv_q_peak / nullif(rcvbuf, 0) DESC NULLS LAST, ns, cookie) AS place
  FROM watched AS u CROSS JOIN params
  QUALIFY params.top = 0 OR place <= params.top
),
counted AS (
  SELECT
    ns,
    CAST(sum(growth) FILTER (WHERE name IN ('Udp.RcvbufErrors', 'Udp6RcvbufErrors')) AS BIGINT) AS rcvbuf_errors,
    CAST(sum(growth) FILTER (WHERE name IN ('Udp.InErrors', 'Udp6InErrors')) AS BIGINT) AS in_errors,
    CAST(sum(growth) FILTER (WHERE name IN ('Udp.MemErrors', 'Udp6MemErrors')) AS BIGINT) AS mem_errors,
    CAST(sum(growth) FILTER (WHERE name IN ('Udp.SndbufErrors', 'Udp6SndbufErrors')) AS BIGINT) AS sndbuf_errors,
    CAST(sum(growth) FILTER (WHERE name IN ('Udp.InDatagrams', 'Udp6InDatagrams')) AS BIGINT) AS datagrams
  FROM counter_growth
  WHERE source IN ('snmp', 'snmp6') AND name SIMILAR TO 'Udp6?[.]?(RcvbufErrors|InErrors|MemErrors|SndbufErrors|InDatagrams)'
  GROUP BY ns
),
lines AS (
  SELECT
    ns, cookie, pid, comm, local_addr, local_port, drops,
    CASE
      WHEN drops IS NULL THEN 'unknown'
      WHEN drops = 0 THEN 'no drops'
      WHEN full_samples > 0 THEN 'reads too slowly'
      ELSE 'overrun by bursts'
    END AS verdict,
    since, until, CASE WHEN drops > 0 THEN peak_per_s END AS peak_per_s, CASE WHEN peak_per_s > 0 THEN peak_time END AS peak_time,
    recv_q_peak, rcvbuf, full_samples, samples, drops_before
  FROM picked
  UNION ALL BY NAME
  -- A tenth is what the sockets may fall behind the counters, which are read after them.
  SELECT n.ns, CAST(n.rcvbuf_errors - coalesce(a.drops, 0) AS BIGINT) AS drops, 'drops of sockets no sample shows' AS verdict
  FROM counted AS n
  LEFT JOIN (SELECT ns, sum(drops) AS drops FROM watched GROUP BY ns) AS a USING (ns)
  WHERE n.rcvbuf_errors > 0
    AND coalesce(a.drops, 0) < 0.9 * n.rcvbuf_errors
    AND NOT EXISTS (SELECT 1 FROM left_out WHERE kind = 'udp')
)
SELECT
  netns_of(l.ns) AS netns, l.pid, l.comm, l.local_addr, l.local_port, l.drops, l.verdict, l.since, l.until,
  round(l.peak_per_s, 1) AS peak_per_s, l.peak_time, l.recv_q_peak AS recv_q_peak_bytes, l.rcvbuf AS rcvbuf_bytes,
  l.full_samples, l.samples, l.drops_before,
  n.rcvbuf_errors AS namespace_rcvbuf_errors, n.in_errors AS namespace_in_errors, n.mem_errors AS namespace_mem_errors,
  n.sndbuf_errors AS namespace_sndbuf_errors,
  round(100.0 * n.in_errors / nullif(n.in_errors + n.datagrams, 0), 1) AS namespace_loss_percent
FROM lines AS l LEFT JOIN counted AS n USING (ns)
ORDER BY
  l.drops DESC NULLS LAST, 1.0 * l.recv_q_peak / nullif(l.rcvbuf, 0) DESC NULLS LAST, l.ns, l.cookie NULLS LAST
