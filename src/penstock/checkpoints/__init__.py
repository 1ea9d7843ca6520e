"""Checkpoints: files of weights and configuration, read safely and handed on as a stream of canonical weights."""
