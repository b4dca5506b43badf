-- title = "Whether it is certain which network namespace the other end is in"
-- description = """
-- An aggregate over all that has the addresses and ports of the other end: one of them is in the own
-- namespace, or all are in one. Containers that are alike have the same addresses in each.
-- """
-- [arguments]
-- ns = "The own network namespace."
-- other_ns = "That of a candidate."
bool_or(other_ns = ns) OR min(other_ns) = max(other_ns)
