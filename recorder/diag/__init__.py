"""One kernel header each, and named for it: messages to columns."""
