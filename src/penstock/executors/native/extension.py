"""The compiled part, imported when an executor is made."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from penstock.errors import ConfigError


def extension() -> Any:
    """The module ``penstock._native``. Raises ``ConfigError`` where it is not built or does not load."""
    try:
        return import_module("penstock._native")
    except ImportError as error:
        raise ConfigError(
            f"the native extension cannot be loaded ({error}); build it with scripts/build, or use --executor torch"
        ) from error
