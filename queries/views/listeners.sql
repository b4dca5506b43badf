-- title = "Listeners and their accept queues"
-- description = """
-- One row per listening socket: TCP, MPTCP and SCTP ports, unix sockets. The accept queue is full,
-- and the kernel drops who comes, when more connections wait than the backlog says.
-- """
--
-- [columns]
-- netns = "Inode number of the network namespace."
-- cookie = "Identity of the socket on this boot, the key together with netns."
-- netid = "Kind of socket, as ss prints it."
-- family = "Address family: inet, inet6, unix …"
-- local_addr = "Local address; of a unix socket its name."
-- local_port = "Local port; nothing where there are none."
-- pid = "Process that holds it, the last one known."
-- start_us = "Start of that process after boot."
-- comm = "Name of that process."
-- user = "Name of the socket's user."
-- first_us = "First sample that showed it, in microseconds UTC."
-- last_us = "Last sample that showed it."
-- first_time = "The same as a time."
-- last_time = "The same as a time."
-- samples = "Samples that showed it."
-- backlog = "Connections that may wait, in the last sample."
-- backlog_max = "Largest backlog in a sample."
-- queue_avg = "Connections that waited to be accepted, mean of its samples."
-- queue_peak = "Most that waited in a sample."
-- queue_last = "Those that waited in the last sample."
-- full_samples = "Samples in which more waited than the backlog says."
-- full_first_us = "First of these."
-- full_last_us = "Last of these."
-- drops_first = "Connections it had dropped by the first sample."
-- drops_last = "Connections it had dropped by the last sample."
-- drops = "Connections it dropped in between; nothing if the kernel did not tell."
SELECT
  netns,
  cookie,
  netid,
  any_value(family) AS family,
  any_value(local_addr) AS local_addr,
  any_value(local_port) AS local_port,
  max_by(pid, sample) AS pid,
  max_by(start_us, sample) AS start_us,
  max_by(comm, sample) AS comm,
  any_value(user) AS user,
  min(t_us) AS first_us,
  max(t_us) AS last_us,
  make_timestamp(min(t_us)) AS first_time,
  make_timestamp(max(t_us)) AS last_time,
  count(*) AS samples,
  max_by(send_q, sample) AS backlog,
  max(send_q) AS backlog_max,
  avg(recv_q) AS queue_avg,
  max(recv_q) AS queue_peak,
  max_by(recv_q, sample) AS queue_last,
  count(CASE WHEN recv_q > send_q THEN 1 END) AS full_samples,
  min(CASE WHEN recv_q > send_q THEN t_us END) AS full_first_us,
  max(CASE WHEN recv_q > send_q THEN t_us END) AS full_last_us,
  min_by(drops, sample) AS drops_first,
  max_by(drops, sample) AS drops_last,
  max_by(drops, sample) - min_by(drops, sample) AS drops
FROM sockets
WHERE state = 'LISTEN'
GROUP BY netns, cookie, netid
