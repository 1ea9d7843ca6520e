"""Tools that make checkpoints out of checkpoints."""
