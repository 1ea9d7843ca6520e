"""What an answer must be, in every dialect's words: a :class:`Grammar` that is plain, bounded and hashable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penstock.errors import RequestError
from penstock.server.http import encode

MAX_SOURCE = 256 << 10
MAX_CHOICES = 4096
Kind = Literal["json", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """``source``: a JSON schema, a regular expression, a JSON list of texts, or a grammar (Lark or GBNF)."""

    kind: Kind
    source: str
    param: str = "structured_outputs"


def _made(kind: Kind, source: Any, param: str) -> Grammar:
    if kind == "json" and isinstance(source, str):
        text = source
    elif kind == "json":
        if not isinstance(source, Mapping | bool):
            raise RequestError(f"{param}: a JSON schema must be an object", param)
        text = _json(source, param)
    elif kind == "choice":
        good = isinstance(source, list) and 0 < len(source) <= MAX_CHOICES and all(isinstance(s, str) for s in source)
        if not good or not all(source):
            raise RequestError(f"{param}: a choice must be a list of 1 to {MAX_CHOICES} texts, none empty", param)
        text = encode(source).decode()
    elif isinstance(source, str) and source:
        text = source
    else:
        raise RequestError(f"{param}: {kind} must be text", param)
    if len(text) > MAX_SOURCE:
        raise RequestError(f"{param}: {len(text)} characters are more than {MAX_SOURCE}", param)
    return Grammar(kind, text, param)


def _json(schema: Any, param: str) -> str:
    try:
        return encode(schema).decode()
    except RecursionError:
        raise RequestError(f"{param}: the schema is nested too deeply", param) from None


def from_response_format(given: Mapping[str, Any] | None, param: str = "response_format") -> Grammar | None:
    """OpenAI's ``response_format`` (and ``text.format`` of responses, whose schema is not nested)."""
    kind = (given or {}).get("type", "text")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return _made("json", {"type": "object"}, param)
    if kind == "json_schema":
        inner = given.get("json_schema", given)
        schema = inner.get("schema", True) if isinstance(inner, Mapping) else None
        return _made("json", schema, param)
    if kind in ("json", "regex"):  # TGI's
        return from_tgi(given, param)
    raise RequestError(f"{param}: type {str(kind)[:64]!r} is not one of text, json_object, json_schema", param)


def from_structured_outputs(given: Mapping[str, Any] | None) -> Grammar | None:
    """vLLM's ``structured_outputs``: one of ``json``, ``regex``, ``choice``, ``grammar``, ``json_object``."""
    param = "structured_outputs"
    wishes = {k: v for k, v in (given or {}).items() if v not in (None, False)}
    unknown = set(wishes) - {"json", "regex", "choice", "grammar", "json_object"}
    if unknown:
        raise RequestError(f"{param}: '{sorted(unknown)[0][:64]}' is not available in this version", param)
    if len(wishes) > 1:
        raise RequestError(f"{param}: give one of json, regex, choice, grammar, json_object", param)
    for kind, source in wishes.items():
        if kind == "json_object":
            return _made("json", {"type": "object"}, param)
        return _made(kind, source, param)  # type: ignore[arg-type]
    return None


def from_tgi(given: Mapping[str, Any] | None, param: str = "grammar") -> Grammar | None:
    """TGI's ``grammar``: ``{"type": "json" | "regex" | "json_schema", "value": …}``."""
    if given is None:
        return None
    kind, value = given.get("type"), given.get("value")
    if kind == "json":
        return _made("json", value, param)
    if kind == "json_schema" and isinstance(value, Mapping):
        return _made("json", value.get("schema", value), param)
    if kind == "regex":
        return _made("regex", value, param)
    raise RequestError(f"{param}: type must be json, json_schema or regex, with a value", param)


def from_ollama(given: Any) -> Grammar | None:
    """Ollama's ``format``: ``json`` or a schema."""
    if given in (None, ""):
        return None
    if given == "json":
        return _made("json", {"type": "object"}, "format")
    return _made("json", given if isinstance(given, Mapping) else None, "format")


def from_llama_server(grammar: str | None, schema: Any) -> Grammar | None:
    if grammar and schema:
        raise RequestError("give grammar or json_schema, not both", "grammar")
    if grammar:
        return _made("grammar", grammar, "grammar")
    return _made("json", schema, "json_schema") if schema else None


def for_calls(tools: Sequence[Mapping[str, Any]], name: str | None, parallel: bool) -> Grammar:
    """What an answer must be that has to call: a list of calls, or (``name`` given) one call of that function."""
    calls = []
    for tool in tools:
        function = tool["function"]
        if name in (None, function["name"]):
            calls.append({
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    "arguments": function.get("parameters") or {"type": "object"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            })  # fmt: skip
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if name is not None or not parallel:
        schema["maxItems"] = 1
    return _made("json", schema, "tools")
