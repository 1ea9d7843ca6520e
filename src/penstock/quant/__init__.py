"""Weight formats: what the numbers of a linear are, on disk and for an executor."""
