-- title = "What a process was doing between two moments"
-- description = """
-- A text, nothing if it is not known: an aggregate over the rows of process_looks of one process that
-- have to do with that time (at_us <= until_us AND until_us >= since_us). Of what was before the first of
-- them nothing is known, and nothing is held against it.
-- """
-- uses = ["cpu_within", "overlap_us", "watched_us"]
-- [arguments]
-- look = "Row of process_looks."
-- since_us = "Begin of the time, in microseconds UTC."
-- until_us = "Its end."
CASE
  WHEN watched_us(look, since_us, until_us) <= 0 THEN NULL
  WHEN 2 * sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 'T') >= watched_us(look, since_us, until_us)
    THEN printf(
      'it was stopped by a signal, as SIGSTOP, for %.0f s of that time',
      CAST(sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 'T') / 1000000.0 AS DOUBLE)
    )
  WHEN 2 * sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 't') >= watched_us(look, since_us, until_us)
    THEN printf(
      'it was stopped by a tracer, as a debugger, for %.0f s of that time',
      CAST(sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 't') / 1000000.0 AS DOUBLE)
    )
  WHEN 2 * sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 'D') >= watched_us(look, since_us, until_us)
    THEN concat(
      'it was in uninterruptible sleep',
      ' in ' || max_by(look.wchan, look.at_us) FILTER (WHERE look.state = 'D') || '()',
      printf(
        ' for %.0f s of that time',
        CAST(sum(overlap_us(look.at_us, look.until_us, since_us, until_us)) FILTER (WHERE look.state = 'D') / 1000000.0 AS DOUBLE)
      )
    )
  ELSE nullif(
    concat_ws(
      '; ',
      -- A burst of one period is no throttling.
      CASE
        WHEN 10 * sum(look.throttled) FILTER (WHERE look.at_us > since_us) >= sum(look.periods) FILTER (WHERE look.at_us > since_us)
          AND sum(look.throttled) FILTER (WHERE look.at_us > since_us) >= 3
          THEN printf(
            'its cgroup, which may use %.2f of a core, was throttled in %.0f %% of its periods',
            CAST(max_by(look.cpu_limit_us, look.at_us) / 1000000.0 AS DOUBLE),
            CAST(
              100.0 * sum(look.throttled) FILTER (WHERE look.at_us > since_us) / sum(look.periods) FILTER (WHERE look.at_us > since_us)
              AS DOUBLE
            )
          )
      END,
      CASE
        WHEN min(look.blocked) > 0
          THEN concat(
            min(look.blocked), ' of its ', max_by(look.threads, look.at_us), ' threads were in uninterruptible sleep',
            ' in ' || max_by(look.wchan, look.at_us) || '()'
          )
      END,
      CASE
        -- The same one of several threads, for half of the time at least.
        WHEN min(look.busiest) = max(look.busiest)
          AND 2 * sum(overlap_us(look.from_us, look.at_us, since_us, until_us)) FILTER (WHERE look.busiest IS NOT NULL)
            >= watched_us(look, since_us, until_us)
          AND sum(look.busiest_us) >= 0.9 * sum(look.at_us - look.from_us) FILTER (WHERE look.busiest IS NOT NULL)
          THEN printf(
            'one of its %d threads (%s) used %.0f %% of a core', CAST(max_by(look.threads, look.at_us) AS BIGINT),
            coalesce(max_by(look.busiest_comm, look.at_us), CAST(max(look.busiest) AS VARCHAR)),
            CAST(
              least(100.0, 100.0 * sum(look.busiest_us) / sum(look.at_us - look.from_us) FILTER (WHERE look.busiest IS NOT NULL))
              AS DOUBLE
            )
          )
        WHEN sum(cpu_within(look, since_us, until_us)) >= 0.05 * watched_us(look, since_us, until_us)
          THEN printf(
            'it used %.0f %% of a core%s', CAST(100.0 * sum(cpu_within(look, since_us, until_us)) / watched_us(look, since_us, until_us) AS DOUBLE),
            CASE WHEN max(look.threads) > 1 THEN printf(' with %d threads', CAST(max(look.threads) AS BIGINT)) ELSE '' END
          )
        WHEN min(look.syscall) < max(look.syscall) OR max(look.syscall) IS NULL THEN 'it was idle'
        WHEN max(look.threads) = 1 THEN concat('it was idle in ', min(look.syscall), '()')
        ELSE concat(
          'it was idle: ', max_by(look.syscall_threads, look.at_us) FILTER (WHERE look.syscall IS NOT NULL), ' of its ',
          max_by(look.threads, look.at_us) FILTER (WHERE look.syscall IS NOT NULL), ' threads waited in ', min(look.syscall), '()'
        )
      END
    ),
    ''
  )
END
