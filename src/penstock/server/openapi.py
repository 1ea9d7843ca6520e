"""The description of the API, made from the routes and the structs that bodies are read as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock._version import __version__
from penstock.server import docs
from penstock.server.http import Call, Dialect, Endpoint, Reply, reply

REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def document(dialects: Sequence[Dialect], guarded: bool) -> dict[str, Any]:
    """OpenAPI 3.1. ``guarded``: whether a key is wanted."""
    bodies = list({e.body: None for d in dialects for e in d.endpoints if e.body is not None})
    shown, components = msgspec.json.schema_components(bodies, ref_template=REF)
    schemas = dict(zip(bodies, shown, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            operations = paths.setdefault(_PARAMETER.sub(r"{\1}", endpoint.path), {})
            operations.setdefault(endpoint.method.lower(), _operation(endpoint, dialect.name, schemas))
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "penstock", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }
    if guarded:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _operation(endpoint: Endpoint, tag: str, schemas: dict[Any, Any]) -> dict[str, Any]:
    doc = (endpoint.handler.__doc__ or "").strip().partition("\n")[0]
    name = _PARAMETER.sub(r"\1", endpoint.path).strip("/").replace("/", "_").replace("-", "_") or "root"
    found: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{name}",
        "tags": [tag],
        "responses": {
            "200": {"description": "the answer"},
            "default": {"description": "an error, in the dialect's form"},
        },
    }
    if doc:
        found["summary"] = doc
    if endpoint.public:
        found["security"] = []
    names = _PARAMETER.findall(endpoint.path)
    if names:
        found["parameters"] = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
    if endpoint.method == "POST":
        schema = schemas.get(endpoint.body, {"type": "object"})
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def dialect(others: Sequence[Dialect], guarded: bool) -> Dialect:
    """The routes that show the description of ``others``, to machines and to people."""
    from penstock.server.openai.errors import error

    made = document(others, guarded)
    shown, read = reply(made), docs.reply(made)

    async def openapi(call: Call) -> Reply:
        return shown

    async def page(call: Call) -> Reply:
        return read

    return Dialect("openapi", (Endpoint("GET", "/openapi.json", openapi), Endpoint("GET", "/docs", page)), error)
