"""What writer and reader agree on about the files of a recording, beside the schema."""
