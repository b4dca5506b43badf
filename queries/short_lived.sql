-- title = "Who makes connections that hardly live"
-- description = """
-- Processes and services whose connections live shorter than the parameter seconds: the worst first.
-- Each costs a handshake, a descriptor, and at the end that closes first a local port for a minute.
-- Many a second with few bytes each is a client without keep-alive or a pool; what says who of the
-- two ends would have to change what. A lifetime is known within bounds only, as a connection is
-- seen at samples and when it ends: short lived less for certain, maybe_short may have. Connections
-- too short for their process to be found are put with the only process that was seen to use the
-- same service: known_percent says how many needed no such guess. Failed attempts are left out;
-- connections still open at the end, or open before the first sample, are not judged. Without
-- closes, whoever lived between two samples was not seen at all: see coverage.
-- """
-- needs = ["tcp", "closes"]
--
-- [columns]
-- comm = "Process at this end; nothing if it was not found."
-- pid = "Its number; nothing if it was not found, or is one of several."
-- role = "Whether it connects (client) or accepts (server)."
-- service = "Address and port that clients connect to, * is several addresses; nothing where the kernel has cleared it, after a reset."
-- short = "Connections that lived less than seconds for certain."
-- maybe_short = "Those that may have, by what is known."
-- closed = "Connections of it that were opened and closed."
-- short_percent = "Share of short and maybe_short in closed."
-- short_per_s = "short and maybe_short in a second of the recording."
-- sent_bytes = "Mean sent by one of them."
-- received_bytes = "Mean received by one of them."
-- closed_first = "End that closed most of them first: local, peer, both or reset."
-- known_percent = "Share of them whose process the recorder itself saw."
-- what = "What to do, and where."
--
-- [params.seconds]
-- type = "DOUBLE"
-- default = 1.0
-- doc = "Connections that lived less are short."
--
-- [params.top]
-- type = "BIGINT"
-- default = 20
-- doc = "How many rows are listed; 0 lists all."
--
-- [chart]
-- mark = "bar"
-- x = { field = "short_per_s", type = "quantitative" }
-- y = { field = "service", sort = "-x" }
-- color = { field = "comm" }
WITH ends AS (
  SELECT
    netns,
    role,
    pid,
    comm,
    CASE WHEN local_addr LIKE '::ffff:%' THEN substr(local_addr, 8) ELSE local_addr END AS local_addr,
    -- A server is known by its port, on whichever of its addresses it was met.
    CASE
      WHEN role <> 'client' THEN NULL
      WHEN peer_addr LIKE '::ffff:%' THEN substr(peer_addr, 8)
      ELSE peer_addr
    END AS service_addr,
    CASE WHEN role = 'client' THEN peer_port ELSE local_port END AS service_port,
    opened,
    closed,
    closed_first,
    attempt,
    duration_us,
    duration_max_us,
    bytes_sent,
    bytes_received,
    first_us,
    last_us
  FROM connections
),
users AS (
  SELECT
    *,
    min(pid) OVER service AS least_pid,
    max(pid) OVER service AS most_pid,
    min(comm) OVER service AS least_comm,
    max(comm) OVER service AS most_comm
  FROM ends
  WINDOW service AS (PARTITION BY netns, role, service_addr, service_port)
),
judged AS (
  SELECT
    users.*,
    CASE
      WHEN users.pid IS NOT NULL THEN users.pid
      WHEN users.service_port IS NOT NULL AND users.least_pid = users.most_pid THEN users.least_pid
    END AS user_pid,
    CASE
      WHEN users.pid IS NOT NULL THEN users.comm
      WHEN users.service_port IS NOT NULL AND users.least_comm = users.most_comm
        THEN users.least_comm
    END AS user_comm,
    CASE
      WHEN users.duration_max_us < params.seconds * 1000000 THEN 'short'
      WHEN users.duration_us < params.seconds * 1000000 THEN 'maybe'
      ELSE 'long'
    END AS life
  FROM users
  CROSS JOIN params
  WHERE users.opened = 'during' AND users.closed IS NOT NULL AND users.attempt IS NULL
),
span AS (
  SELECT
    CASE WHEN s.start_us IS NULL THEN c.start_us ELSE s.start_us END AS start_us,
    CASE WHEN s.end_us IS NULL THEN c.end_us ELSE s.end_us END AS end_us
  FROM (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM samples) AS s
  CROSS JOIN (SELECT min(first_us) AS start_us, max(last_us) AS end_us FROM ends) AS c
),
summed AS (
  SELECT
    netns,
    user_pid,
    user_comm,
    role,
    service_addr,
    service_port,
    count(CASE WHEN life = 'short' THEN 1 END) AS short,
    count(CASE WHEN life = 'maybe' THEN 1 END) AS maybe_short,
    count(*) AS closed,
    min(local_addr) AS least_addr,
    max(local_addr) AS most_addr,
    avg(CASE WHEN life <> 'long' THEN bytes_sent END) AS sent_bytes,
    avg(CASE WHEN life <> 'long' THEN bytes_received END) AS received_bytes,
    count(CASE WHEN life <> 'long' AND pid IS NOT NULL THEN 1 END) AS known,
    count(CASE WHEN life <> 'long' AND closed_first = 'local' THEN 1 END) AS by_local,
    count(CASE WHEN life <> 'long' AND closed_first = 'peer' THEN 1 END) AS by_peer,
    count(CASE WHEN life <> 'long' AND closed_first = 'both' THEN 1 END) AS by_both,
    count(CASE WHEN life <> 'long' AND closed_first = 'reset' THEN 1 END) AS by_reset
  FROM judged
  GROUP BY netns, user_pid, user_comm, role, service_addr, service_port
),
told AS (
  SELECT
    summed.*,
    CASE
      WHEN by_local + by_peer + by_both + by_reset = 0 THEN NULL
      WHEN by_local >= by_peer AND by_local >= by_both AND by_local >= by_reset THEN 'local'
      WHEN by_peer >= by_both AND by_peer >= by_reset THEN 'peer'
      WHEN by_reset >= by_both THEN 'reset'
      ELSE 'both'
    END AS closed_first,
    row_number() OVER (
      ORDER BY
        short + maybe_short DESC,
        netns,
        user_comm NULLS LAST,
        user_pid NULLS LAST,
        role NULLS LAST,
        service_addr NULLS LAST,
        service_port NULLS LAST
    ) AS place
  FROM summed
  WHERE short + maybe_short > 0
)
SELECT
  told.user_comm AS comm,
  told.user_pid AS pid,
  told.role AS role,
  CASE
    WHEN told.service_addr LIKE '%:%' THEN concat('[', told.service_addr, ']:', told.service_port)
    WHEN told.service_addr IS NOT NULL THEN concat(told.service_addr, ':', told.service_port)
    WHEN told.role = 'client' THEN NULL
    WHEN told.least_addr < told.most_addr THEN concat('*:', told.service_port)
    WHEN told.least_addr LIKE '%:%' THEN concat('[', told.least_addr, ']:', told.service_port)
    ELSE concat(told.least_addr, ':', told.service_port)
  END AS service,
  told.short AS short,
  told.maybe_short AS maybe_short,
  told.closed AS closed,
  round(100.0 * (told.short + told.maybe_short) / told.closed, 1) AS short_percent,
  round(
    1000000.0 * (told.short + told.maybe_short) / nullif(span.end_us - span.start_us, 0), 2
  ) AS short_per_s,
  CAST(round(told.sent_bytes) AS BIGINT) AS sent_bytes,
  CAST(round(told.received_bytes) AS BIGINT) AS received_bytes,
  told.closed_first AS closed_first,
  round(100.0 * told.known / (told.short + told.maybe_short), 1) AS known_percent,
  CASE
    WHEN told.closed_first = 'reset' AND told.role = 'server'
      THEN 'it resets its clients: look for SO_LINGER 0 and for requests left unread at close'
    WHEN told.closed_first = 'reset'
      THEN 'refused, or reset by this end: see whether the service is up, then for SO_LINGER 0'
    WHEN told.role = 'client' AND told.closed_first = 'peer'
      THEN 'the service hangs up: turn on keep-alive there, then pool connections here'
    WHEN told.role = 'client' THEN 'pool connections or use keep-alive in this process'
    WHEN told.role = 'server' AND told.closed_first = 'local'
      THEN 'turn on keep-alive in this process, it hangs up on its clients'
    WHEN told.role = 'server' THEN 'its clients hang up: pool connections or use keep-alive there'
    ELSE 'find the end that opens them: pool connections or use keep-alive there'
  END AS what
FROM told
CROSS JOIN span
CROSS JOIN params
WHERE params.top = 0 OR told.place <= params.top
ORDER BY told.place
