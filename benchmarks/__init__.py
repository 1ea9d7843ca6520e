"""The developer's benchmarks. ``python -m benchmarks --help``."""
