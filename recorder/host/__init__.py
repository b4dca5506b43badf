"""Processes, namespaces, cgroups, names, counters, settings and limits of the host."""
