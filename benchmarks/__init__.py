"""The developer's benchmarks. ``python -m benchmarks.cpu --help``; README.md beside this file."""
