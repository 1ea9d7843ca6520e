"""The torch executor: the reference meaning of every op."""
