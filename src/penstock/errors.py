"""Error kinds. Every mistake a user can make ends in one of these; each message says what to do about it.

The command line prints ``error: <message>`` and exits with ``exit_code``; a server maps ``status`` to HTTP.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PenstockError(Exception):
    """Base of all errors that penstock raises on purpose. One line, no traceback for users."""

    exit_code = 1
    status = 500
    kind = "internal_error"


class ConfigError(PenstockError, ValueError):
    """A wish that cannot be met (flag, environment variable, option); names what to change."""

    exit_code = 2
    status = 400
    kind = "invalid_config"


class CheckpointError(PenstockError, ValueError):
    """A file of a checkpoint is missing, damaged, or not what it says it is."""

    exit_code = 3
    status = 500
    kind = "invalid_checkpoint"


class UnsupportedError(CheckpointError):
    """The checkpoint is sound but asks for something penstock does not know (family, field, format)."""

    kind = "unsupported_checkpoint"


class RequestError(PenstockError, ValueError):
    """A request that can never be served as asked. ``param`` names the field at fault, if one is."""

    exit_code = 2
    status = 400
    kind = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(RequestError):
    """Prompt plus wanted tokens do not fit the model or the KV cache; says the numbers."""

    kind = "context_length_exceeded"


class TemplateError(RequestError):
    """A chat template failed, or was stopped by its time or size limit."""

    kind = "template_error"


class OverloadedError(PenstockError):
    """The queue is full; try again after ``retry_after`` seconds."""

    status = 503
    kind = "overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExecutionError(PenstockError):
    """A step failed (NaN logits, out of memory); fails the requests concerned, not the server."""

    kind = "execution_error"


class MissingDependencyError(PenstockError, ImportError):
    """An optional library is not installed; names the command that installs it."""

    exit_code = 4
    kind = "missing_dependency"


def missing(library: str, extra: str | None = None) -> MissingDependencyError:
    """The error for an absent optional ``library``; ``extra`` is penstock's extra that brings it."""
    what = f"'penstock[{extra}]'" if extra else library
    return MissingDependencyError(f"this needs {library}, which is not installed: pip install {what}")


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known name nearest to ``word``, else the empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""
