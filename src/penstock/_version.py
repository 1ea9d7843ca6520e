"""The version, kept here alone: pyproject.toml and CMake read it from this file."""

__version__ = "0.1.0"
