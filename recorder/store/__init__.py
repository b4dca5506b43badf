"""A recording on the disk: journals, segments, the sealing child, recording.json."""
