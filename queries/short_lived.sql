-- title = "Short-lived connections"
-- description = """
-- Processes and services whose connections live shorter than the parameter seconds: the worst first.
-- Each costs a handshake, a descriptor, and at the end that closes first a local port for a minute.
-- Many a second with few bytes each is a client without keep-alive or a pool; the column what says
-- which end would have to change what. A lifetime is known within bounds only, as a connection is
-- seen at samples and when it ends: short lived less for certain, maybe_short may have. Connections
-- too short for their process to be found are counted for the only process that was seen to use the
-- same service: known_percent says how many needed no such guess. Failed attempts are left out;
-- connections still open at the end, or open before the first sample, are not judged. Without
-- closes, a connection that lived between two samples was not seen at all: see coverage.
-- """
-- needs = ["tcp", "closes"]
-- uses = ["endpoint", "got_no_answer", "netns_of", "services"]
-- ranks = [
--   "comm", "pid", "role", "service", "short", "short_percent", "short_per_s", "what", "maybe_short", "closed",
--   "closed_first",
-- ]
--
-- [columns]
-- comm = "Process at this end; empty if it was not found."
-- pid = "Its number; empty if it was not found, or is one of several."
-- role = "Whether it connects (client) or accepts (server)."
-- service = "Address and port that clients connect to, * is several addresses; empty where the kernel has cleared it, after a reset."
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
-- netns = "Inode number of the network namespace."
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
WITH judged AS (
  SELECT
    s.*,
    CASE
      WHEN s.duration_max_us < params.seconds * 1000000 THEN 'short'
      WHEN s.duration_us < params.seconds * 1000000 THEN 'maybe'
      ELSE 'long'
    END AS life
  FROM services AS s CROSS JOIN params
),
span AS (
  SELECT
    CASE WHEN s.start_us IS NULL THEN c.start_us ELSE s.start_us END AS start_us,
    CASE WHEN s.end_us IS NULL THEN c.end_us ELSE s.end_us END AS end_us
  FROM (SELECT min(t_us) AS start_us, max(t_us) AS end_us FROM samples) AS s
  CROSS JOIN (SELECT min(first_us) AS start_us, max(last_us) AS end_us FROM judged) AS c
),
summed AS (
  SELECT
    ns, user_pid, user_comm, role, service_addr, service_port,
    count(*) FILTER (WHERE life = 'short') AS short,
    count(*) FILTER (WHERE life = 'maybe') AS maybe_short,
    count(*) AS closed,
    min(local_addr) AS least_addr, max(local_addr) AS most_addr,
    avg(bytes_sent) FILTER (WHERE life <> 'long') AS sent_bytes,
    avg(bytes_received) FILTER (WHERE life <> 'long') AS received_bytes,
    count(pid) FILTER (WHERE life <> 'long') AS known,
    count(*) FILTER (WHERE life <> 'long' AND got_no_answer(role, bytes_sent, bytes_received)) AS unanswered,
    count(*) FILTER (WHERE life <> 'long' AND closed_first = 'local') AS by_local,
    count(*) FILTER (WHERE life <> 'long' AND closed_first = 'peer') AS by_peer,
    count(*) FILTER (WHERE life <> 'long' AND closed_first = 'both') AS by_both,
    count(*) FILTER (WHERE life <> 'long' AND closed_first = 'reset') AS by_reset
  FROM judged
  WHERE opened = 'during' AND closed IS NOT NULL AND attempt IS NULL
  GROUP BY ns, user_pid, user_comm, role, service_addr, service_port
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
        short + maybe_short DESC, ns, user_comm NULLS LAST, user_pid NULLS LAST, role NULLS LAST,
        service_addr NULLS LAST, service_port NULLS LAST
    ) AS place
  FROM summed CROSS JOIN params
  WHERE short + maybe_short > 0
  QUALIFY params.top = 0 OR place <= params.top
)
SELECT
  user_comm AS comm, user_pid AS pid, role,
  CASE
    WHEN service_addr IS NOT NULL OR role = 'client' THEN endpoint(service_addr, service_port)
    ELSE endpoint(CASE WHEN least_addr < most_addr THEN '*' ELSE least_addr END, service_port)
  END AS service,
  short, maybe_short, closed, round(100.0 * (short + maybe_short) / closed, 1) AS short_percent,
  round(1000000.0 * (short + maybe_short) / nullif(span.end_us - span.start_us, 0), 2) AS short_per_s,
  CAST(round(sent_bytes) AS BIGINT) AS sent_bytes,
  CAST(round(received_bytes) AS BIGINT) AS received_bytes,
  closed_first, round(100.0 * known / (short + maybe_short), 1) AS known_percent,
  CASE
    WHEN 2 * unanswered > short + maybe_short AND role = 'server' AND closed_first IN ('local', 'reset')
      THEN 'it turns its clients away without a byte of answer: see its log, its limits and whom it lets in'
    WHEN 2 * unanswered > short + maybe_short AND role = 'client' AND closed_first = 'peer'
      THEN 'the service turns it away without a byte of answer: see the log and the limits there'
    WHEN closed_first = 'reset' AND role = 'server'
      THEN 'it resets its clients: look for SO_LINGER 0 and for requests left unread at close'
    WHEN closed_first = 'reset'
      THEN 'refused, or reset by this end: see whether the service is up, then for SO_LINGER 0'
    WHEN role = 'client' AND closed_first = 'peer'
      THEN 'the service hangs up: turn on keep-alive there, then pool connections here'
    WHEN role = 'client' THEN 'pool connections or use keep-alive in this process'
    WHEN role = 'server' AND closed_first = 'local'
      THEN 'turn on keep-alive in this process, it hangs up on its clients'
    WHEN role = 'server' THEN 'its clients hang up: pool connections or use keep-alive there'
    ELSE 'find the end that opens them: pool connections or use keep-alive there'
  END AS what,
  netns_of(ns) AS netns
FROM told CROSS JOIN span
ORDER BY place
