-- title = "What held back each TCP connection that sends"
-- description = """
-- One row per connection that had something to send: within the scope, from the last sample before
-- it, else from the first one that shows the connection, if that was open then. The kernel counts the
-- time in which something waited to be sent or acknowledged, and how much of it the peer's window or
-- the own send buffer was the limit. A window that is mostly shut is a reader that is slow.
-- """
-- uses = ["endpoint", "history", "tcp_reads"]
-- [columns]
-- ns = "Network namespace."
-- busy_us = "Time with something to send."
-- path_us = "Of that the time in which neither window nor buffer was the limit: congestion control, or the way."
-- idle_us = "Time of its samples in which there was nothing to send."
-- held_us = "Of that the time held back by held_by."
-- held_by = "receiver window, slow reader or send buffer, whichever held back longer; nothing if none did."
-- limited_by = "The longest of these: application, receiver window, slow reader, send buffer, or congestion or path."
-- most_window = "Largest window that the peer gave."
-- rtt_us = "Median of the round-trip times that samples show."
WITH sending AS (
  SELECT
    ns, cookie, any_value(local_addr) AS local_addr, any_value(local_port) AS local_port,
    any_value(peer_addr) AS peer_addr, any_value(peer_port) AS peer_port,
    max_by(pid, sample) AS pid, max_by(start_us, sample) AS start_us, max_by(comm, sample) AS comm,
    min(sample) AS first_sample, min(sample_time) AS since, max(sample_time) AS until, max(t_us) - min(t_us) AS lasted_us,
    -- Counters only grow: their least value is the first one.
    min(busy_time_us) AS first_busy_us, max(busy_time_us) AS busy_us, min(rwnd_limited_us) AS first_window_us,
    max(rwnd_limited_us) AS window_us, min(sndbuf_limited_us) AS first_buffer_us, max(sndbuf_limited_us) AS buffer_us,
    max(bytes_acked) - min(bytes_acked) AS acked, max(snd_wnd) AS most_window, avg(snd_wnd) AS mean_window,
    max_by(sndbuf, sample) AS sndbuf, median(rtt_us) AS rtt_us
  FROM history AS seen
  WHERE netid = 'tcp' AND busy_time_us > 0 AND state NOT IN ('LISTEN', 'TIME-WAIT', 'UNCONN')
  GROUP BY ns, cookie
),
added AS (
  SELECT
    s.*,
    -- One that came after the first whole sample began at 0.
    CASE WHEN s.first_sample > b.sample THEN 0 ELSE 1 END AS was_open,
    s.busy_us - was_open * s.first_busy_us AS busy, s.window_us - was_open * s.first_window_us AS by_window,
    s.buffer_us - was_open * s.first_buffer_us AS by_buffer
  FROM sending AS s LEFT JOIN (SELECT ns, min(sample) AS sample FROM tcp_reads GROUP BY ns) AS b USING (ns)
)
SELECT
  ns, cookie, endpoint(local_addr, local_port) AS local, peer_addr, endpoint(peer_addr, peer_port) AS peer,
  pid, start_us, comm, since, until, busy AS busy_us, greatest(by_window, by_buffer) AS held_us,
  CASE
    WHEN by_window > 0 AND by_window >= by_buffer
      THEN CASE WHEN most_window > 0 AND 2 * mean_window >= most_window THEN 'receiver window' ELSE 'slow reader' END
    WHEN by_buffer > 0 THEN 'send buffer'
  END AS held_by,
  greatest(busy - by_window - by_buffer, 0) AS path_us, greatest(lasted_us - busy, 0) AS idle_us,
  CASE
    WHEN idle_us > greatest(held_us, path_us) THEN 'application'
    WHEN path_us > held_us THEN 'congestion or path'
    ELSE held_by
  END AS limited_by,
  most_window, sndbuf, CAST(round(rtt_us) AS BIGINT) AS rtt_us, acked, 1000000.0 * acked / nullif(lasted_us, 0) AS acked_bytes_per_s
FROM added
WHERE busy > 0
