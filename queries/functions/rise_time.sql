-- title = "When the rise to the peak of a series began"
-- description = "In samples before the first with any there were none."
-- uses = ["rise"]
-- [arguments]
-- levels = "List of the values in the order of their samples."
-- times = "List of the times of these samples."
-- came_later = "Whether there were samples before."
-- enough = "A value that is enough, as one that began with so many did so before it rose."
times[rise(levels, CASE WHEN came_later THEN 0 ELSE levels[1] END, enough)]
