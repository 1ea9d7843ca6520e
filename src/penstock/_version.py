"""The version, kept here alone: pyproject.toml and CMake read it from this file."""

from __future__ import annotations

__version__ = "0.1.0"
