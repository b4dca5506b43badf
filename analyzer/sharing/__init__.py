"""What leaves the house: a selection of a recording, redacted, in one file, or in other forms."""
