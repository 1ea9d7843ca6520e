"""Sequences, KV blocks, scheduling. Speaks token ids only."""
