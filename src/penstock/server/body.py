"""JSON bodies to checked structs: wrong types, unknown names and absurd nesting are told, never guessed at."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from penstock.errors import RequestError, nearest

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(.*)`$")


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. Raises ``RequestError`` for anything else."""
    try:
        found = msgspec.json.decode(body)
    except RecursionError:
        raise RequestError("the body is no JSON that can be read: it is nested too deeply") from None
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RequestError(f"the body is no JSON that can be read: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise RequestError(f"the body must be a JSON object, not {type(found).__name__}")
    return found


def read(
    fields: Mapping[str, Any],
    kind: type[T],
    harmless: Collection[str] = (),
    refused: Mapping[str, tuple[tuple[Any, ...], str]] | None = None,
    lax: bool = False,
) -> T:
    """``fields`` as a ``kind``.

    ``harmless``: names that change no result and are let through. ``refused``: names that are known and not available,
    with the values that change nothing and the reason. ``lax`` lets all other names through too. Raises
    ``RequestError`` naming the field.
    """
    names = field_names(kind)
    for name, value in fields.items():
        if name in names or name in harmless:
            continue
        if refused and name in refused:
            neutral, why = refused[name]
            if value is None or any(value is n or (value == n and type(value) is type(n)) for n in neutral):
                continue
            raise RequestError(f"{name} {why}", name)
        if not lax:
            shown = name if len(name) <= 64 else name[:61] + "..."
            hint = nearest(shown, [*names, *harmless])
            raise RequestError(f"unknown field '{shown}'{hint}", shown)
    try:
        return msgspec.convert(fields, kind, strict=True)
    except msgspec.ValidationError as error:
        raise field_error(error) from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None


def field_error(error: Exception) -> RequestError:
    """msgspec's message, with the field it is about as ``param``."""
    text = str(error)
    match = _AT.search(text)
    param = match.group(1) if match else None
    if missing := _MISSING.match(text):
        return RequestError(f"{missing[1]} is missing", missing[1])
    if not match:
        return RequestError(text, None)
    return RequestError(f"{param}: {text[: match.start()]}", param)


@lru_cache(maxsize=256)
def field_names(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(f.encode_name for f in msgspec.structs.fields(kind))


def _reason(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ")[:200]
