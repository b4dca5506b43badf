-- title = "Where the rise to the peak of a series begins"
-- description = """
-- The place, from 1, of the first value after the last one at the level of the beginning, or within
-- 2 % of the rise; or of the first one that is enough, as one that began with so many did so before
-- it rose.
-- """
-- [arguments]
-- levels = "List of the values in their order."
-- base = "Level of the beginning."
-- enough = "A value that is enough."
least(
  1 + coalesce(
    list_max(
      list_filter(
        range(1, list_position(levels, list_max(levels))),
        lambda i: 50 * (levels[i] - base) <= list_max(levels) - base
      )
    ),
    0
  ),
  list_position(list_transform(levels, lambda level: level >= enough), true)
)
