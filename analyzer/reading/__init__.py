"""A directory, zip, glob or file to checked tables."""
