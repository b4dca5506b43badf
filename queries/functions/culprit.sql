-- title = "Who must act that a queue moves on"
-- description = "The process at this end, the one at the other, else the peer or the network to it."
-- uses = ["process"]
-- [arguments]
-- verdict = "Why the queue does not move: reader stalled, not accepted, sndbuf, peer stalled or network."
-- comm = "Name of the process at this end."
-- pid = "Its number."
-- other_comm = "Name of the process at the other end, if it is on this host."
-- other_pid = "Its number."
-- peer_addr = "Peer address."
CASE
  WHEN verdict IN ('reader stalled', 'not accepted', 'sndbuf')
    THEN CASE WHEN pid IS NOT NULL THEN process(coalesce(comm, 'process'), pid) ELSE 'unknown process' END
  WHEN verdict = 'peer stalled' AND other_pid IS NOT NULL THEN process(coalesce(other_comm, 'process'), other_pid)
  WHEN verdict = 'peer stalled' THEN concat('peer ', peer_addr)
  WHEN verdict = 'network' THEN concat('network to ', peer_addr)
END
