"""What one sample consists of, whose rows are whose, and how each step went."""
