"""Which runs there are, and what makes their records. Reads no record for its results."""
