-- title = "Who uses a service, where no process is known: the user"
-- description = """
-- One row per destination of connections without a process, those of TIME-WAIT left out as they have
-- lost their user: the one user and cgroup that they have in common, and the process of that user if
-- only one that holds sockets was seen.
-- """
-- uses = ["the_only", "unmapped", "who"]
-- [columns]
-- ns = "Network namespace."
-- peer_addr = "Address of the destination."
-- peer_port = "Its port."
-- pid = "The only process of that user."
-- comm = "Its name."
-- who = "In words: nginx (pid 7), the only one seen of user www-data, or: a process of user www-data."
WITH users AS (
  SELECT
    ns, unmapped(peer_addr) AS peer_addr, peer_port, the_only(uid) AS uid, the_only(coalesce(user, 'with number ' || uid)) AS user,
    the_only(cgroup) AS cgroup
  FROM sockets
  WHERE netid = 'tcp' AND pid IS NULL AND peer_port > 0
    AND state NOT IN ('LISTEN', 'TIME-WAIT', 'SYN-RECV')
    AND NOT coalesce(timer = 'timewait', false)
  GROUP BY ns, unmapped(peer_addr), peer_port
),
holders AS (
  SELECT uid, the_only(pid) AS pid, the_only(comm) AS comm
  FROM owners
  GROUP BY uid
)
SELECT
  u.ns, u.peer_addr, u.peer_port, p.pid, CASE WHEN p.pid IS NOT NULL THEN p.comm END AS comm,
  concat(
    CASE WHEN p.pid IS NOT NULL THEN concat(who(p.comm, p.pid), ', the only one seen') ELSE 'a process' END, ' of user ', u.user,
    ' in cgroup ' || u.cgroup, CASE WHEN p.pid IS NOT NULL THEN ',' END
  ) AS who
FROM users AS u LEFT JOIN holders AS p USING (uid)
-- Older kernels show every socket without a process as root's.
WHERE u.uid > 0
