-- title = "A process in a column of processes"
-- description = "nginx (7); its name alone if the number is not known, nothing without a name."
-- [arguments]
-- comm = "Name of the process."
-- pid = "Its number."
CASE WHEN pid IS NULL THEN comm ELSE comm || ' (' || pid || ')' END
