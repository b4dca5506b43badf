-- title = "What limits what connections send"
-- description = """
-- What bounded the throughput of each connection that sent something; those held back longest come
-- first. limited_by is what took most of its time. application: there was nothing to send, for
-- application_percent of the time. The rest is busy time, in which something waited to be sent or
-- acknowledged, the round trip of a small request too. Of that held_percent was held back by what
-- held_by says, and path_percent by neither window nor buffer: congestion or path, that is congestion
-- control after losses (retransmits), or a link that is full (interfaces, rtt). receiver window: the peer reads, but its receive buffer is too small for this round-trip time (SO_RCVBUF,
-- net.ipv4.tcp_rmem over there): no more than window_bytes can be on the way at once. slow reader:
-- the window is mostly shut, as the peer's process does not read as fast as this one writes; read
-- queue_growth. send buffer: the same as receiver window, with the buffer of this end (SO_SNDBUF,
-- net.ipv4.tcp_wmem).
-- """
-- needs = ["tcp"]
-- uses = ["netns_of", "send_limits"]
-- ranks = [
--   "limited_by", "held_by", "held_percent", "path_percent", "application_percent", "comm", "pid", "peer", "acked_bytes_per_s", "rtt_us",
--   "window_bytes", "busy_s",
-- ]
--
-- [columns]
-- limited_by = "application, receiver window, slow reader, send buffer, or congestion or path."
-- application_percent = "Share of the time of its samples in which it had nothing to send."
-- held_by = "receiver window, slow reader or send buffer, whichever held back longer; empty if none did."
-- held_percent = "Share of the busy time in which that was the limit."
-- path_percent = "Share of it in which neither window nor buffer was."
-- comm = "Name of the process that sends."
-- pid = "Its number."
-- local = "Local address and port."
-- peer = "Peer address and port."
-- busy_s = "Seconds with something to send or to be acknowledged."
-- acked_bytes = "Bytes that the peer acknowledged from the first sample of the connection to the last."
-- acked_bytes_per_s = "The same for a second of that time."
-- rtt_us = "Round-trip time, the median of its samples."
-- window_bytes = "Largest window that the peer gave."
-- sndbuf_bytes = "Limit of the send buffer in the last sample, the kernel's own memory included."
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many connections are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "held_percent", type = "quantitative" }
-- y = { field = "peer", sort = "-x" }
-- color = { field = "limited_by" }
SELECT
  limited_by, round(100.0 * idle_us / nullif(idle_us + busy_us, 0), 1) AS application_percent, held_by,
  round(100.0 * held_us / busy_us, 1) AS held_percent, round(100.0 * path_us / busy_us, 1) AS path_percent, comm, pid, local, peer, round(busy_us / 1000000.0, 1) AS busy_s,
  acked AS acked_bytes, round(acked_bytes_per_s, 1) AS acked_bytes_per_s, rtt_us, most_window AS window_bytes, sndbuf AS sndbuf_bytes,
  netns_of(ns) AS netns, cookie
FROM send_limits CROSS JOIN params
QUALIFY params.top = 0 OR row_number() OVER (ORDER BY held_us DESC, busy_us DESC, ns, cookie) <= params.top
ORDER BY held_us DESC, busy_us DESC, ns, cookie
