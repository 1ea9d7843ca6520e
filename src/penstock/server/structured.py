"""What an answer must be, in every dialect's words, as :class:`StructuredOutputs`: compiled in one place for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import RequestError
from penstock.server.tools.check import Offer
from penstock.types import StructuredOutputs

VALUES = frozenset({"const", "enum", "default", "examples"})
"""Keywords of a schema that hold values, not schemas."""


def from_response_format(given: Mapping[str, Any] | None, param: str = "response_format") -> StructuredOutputs | None:
    """OpenAI's ``response_format`` (and ``text.format`` of responses, whose schema is not nested); TGI's too."""
    kind = "text" if given is None else given.get("type", "text")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True, param=param)
    if kind == "json_schema" and "value" not in given:
        inner = given.get("json_schema", given)
        if not isinstance(inner, Mapping):
            raise RequestError(f"{param}: json_schema must be an object with a schema", param)
        return _schema(inner.get("schema", True), param)
    if kind == "structural_tag":
        return StructuredOutputs(structural_tag={k: v for k, v in given.items() if k != "type"}, param=param)
    if kind in ("json", "regex", "json_schema"):
        return from_tgi(given, param)
    raise RequestError(f"{param}: type {str(kind)[:64]!r} is not one of text, json_object, json_schema", param)


def from_structured_outputs(
    given: Mapping[str, Any] | None, guided: Mapping[str, Any] | None = None
) -> StructuredOutputs | None:
    """vLLM's ``structured_outputs``, or its old ``guided_*`` fields by the names behind ``guided_``."""
    old = {name: value for name, value in (guided or {}).items() if value is not None}
    if given and old:
        raise RequestError("give structured_outputs or the old guided_ fields, not both", "structured_outputs")
    if old:
        param = f"guided_{next(iter(old))}"
        return StructuredOutputs.of(old, param)
    if not given or all(value in (None, False) for value in given.values()):
        return None
    return StructuredOutputs.of(given)


def from_tgi(given: Mapping[str, Any] | None, param: str = "grammar") -> StructuredOutputs | None:
    """TGI's ``grammar``: ``{"type": "json" | "regex" | "json_schema", "value": …}``."""
    if given is None:
        return None
    kind, value = given.get("type"), given.get("value")
    if kind == "json":
        return _schema(value, param)
    if kind == "json_schema" and isinstance(value, Mapping):
        return _schema(value.get("schema", value), param)
    if kind == "regex":
        return StructuredOutputs(regex=value, param=param)
    raise RequestError(f"{param}: type must be json, json_schema or regex, with a value", param)


def from_ollama(given: Any) -> StructuredOutputs | None:
    """Ollama's ``format``: ``json`` or a schema."""
    if given in (None, ""):
        return None
    if given == "json":
        return StructuredOutputs(json_object=True, param="format")
    if not isinstance(given, Mapping):
        raise RequestError("format must be 'json' or a JSON schema", "format")
    return _schema(given, "format")


def from_llama_server(grammar: str | None, schema: Mapping[str, Any] | None) -> StructuredOutputs | None:
    """llama-server's ``grammar`` (GBNF) or ``json_schema``, of which ``{}`` is any JSON."""
    if grammar and schema is not None:
        raise RequestError("give grammar or json_schema, not both", "grammar")
    if grammar:
        return StructuredOutputs(grammar=grammar, param="grammar")
    return None if schema is None else _schema(schema, "json_schema")


def wish(
    spec: StructuredOutputs | None,
    offer: Offer,
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    parallel: bool = True,
) -> StructuredOutputs | None:
    """What an answer must be: a call where ``offer`` demands one, else ``spec``. Both cannot be had."""
    if not offer.must:
        return spec
    if spec is not None:
        raise RequestError(f"{spec.param} and a forced tool_choice exclude each other", spec.param)
    return for_calls(tools or (), offer.only, parallel)


def for_calls(tools: Sequence[Mapping[str, Any]], name: str | None, parallel: bool) -> StructuredOutputs:
    """What an answer must be that has to call: a list of calls, or (``name`` given) one call of that function."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for tool in tools:
        function = tool["function"]
        if name not in (None, function["name"]):
            continue
        parameters = function.get("parameters") or {"type": "object"}
        arguments = _moved(parameters, len(calls), definitions)
        calls.append({
            "type": "object",
            "properties": {"name": {"const": function["name"]}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        })  # fmt: skip
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if name is not None or not parallel:
        schema["maxItems"] = 1
    return StructuredOutputs(json={**schema, **definitions}, param="tools")


def _moved(schema: Mapping[str, Any], place: int, definitions: dict[str, Any]) -> Any:
    """A function's parameters as a part of the whole, with the references that pointed to their own root moved along.

    What ``$ref`` "#/…" names lies under ``$defs`` of the whole, where nothing else is.
    """
    if not _refers(schema):
        return schema
    name = f"function{place}"
    definitions.setdefault("$defs", {})[name] = _repointed(schema, f"#/$defs/{name}")
    return {"$ref": f"#/$defs/{name}"}


def _refers(node: Any) -> bool:
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, Mapping):
            if isinstance(one.get("$ref"), str):
                return True
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    return False


def _repointed(node: Any, root: str) -> Any:
    try:
        if isinstance(node, Mapping):
            moved = {k: v if k in VALUES else _repointed(v, root) for k, v in node.items()}
            reference = node.get("$ref")
            if isinstance(reference, str) and reference.startswith("#"):
                moved["$ref"] = root + reference[1:]
            return moved
        return [_repointed(each, root) for each in node] if isinstance(node, list) else node
    except RecursionError:
        raise RequestError("tools: parameters are nested too deeply", "tools") from None


def _schema(schema: Any, param: str) -> StructuredOutputs:
    if not isinstance(schema, Mapping | bool | str):
        raise RequestError(f"{param}: a JSON schema must be an object", param)
    return StructuredOutputs(json=schema, param=param)
