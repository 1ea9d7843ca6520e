"""Log lines as people or as machines read them. Machines get one JSON object a line, with the request's id."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from penstock.server.current import CURRENT
from penstock.server.http import encode

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger``, ``message``; ``request_id`` within a request, ``http`` for access lines,
    ``exception`` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = CURRENT.get()
        if current is not None:
            found["request_id"] = current.request_id
        http = getattr(record, "http", None)
        if http is not None:
            found["http"] = http
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return encode(_clean(found)).decode()


def _clean(value: Any) -> Any:
    """Text that is no Unicode (a lone surrogate) must not cost the line."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return {k: _clean(v) for k, v in value.items()} if isinstance(value, dict) else value


def configure(form: str, level: str) -> None:
    """Set up the root logger: ``form`` text or json, on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
