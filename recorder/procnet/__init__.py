"""/proc/net as columns, where the kernel has no diag handler."""
