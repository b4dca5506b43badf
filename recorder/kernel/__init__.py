"""What the kernel is asked and announces, in every network namespace."""
