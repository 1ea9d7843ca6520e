"""``/docs``: the description of the API as one page for people, without scripts and from nowhere else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

from penstock.server.http import Reply

STYLE = """
:root { color-scheme: light dark; --quiet: light-dark(#5c6b68, #93a29f); --line: light-dark(#dfe5e3, #2c3533);
  --card: light-dark(#ffffff, #1b2220); --accent: light-dark(#0c7a6d, #45bba9); }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: light-dark(#f7f8f7, #121716);
  font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.2rem; font-size: 1.15rem; } a { color: var(--accent); }
details, .plain { margin: .35rem 0; padding: .5rem .8rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); } .plain { padding-left: calc(.8rem + 16px); }
summary { cursor: pointer; } code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
b.method { display: inline-block; width: 4.2rem; color: var(--accent); font: 600 12px ui-monospace, monospace; }
span, td + td { color: var(--quiet); } table { margin: .5rem 0 0 4.2rem; border-collapse: collapse; }
td { padding: .1rem 1.2rem .1rem 0; vertical-align: top; }
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def reply(document: Mapping[str, Any]) -> Reply:
    """The page of an OpenAPI ``document``."""
    return Reply("".join(_page(document)).encode(), content_type="text/html; charset=utf-8", headers=dict(HEADERS))


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    version = escape(document["info"]["version"])
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>penstock API</title><style>{STYLE}</style></head><body><h1>penstock {version}</h1>"
    yield "<p>What this server answers, by dialect. The same for machines: "
    yield '<a href="openapi.json">openapi.json</a>. '
    yield "A key is wanted: <code>Authorization: Bearer KEY</code>.</p>" if document.get("security") else "</p>"
    sections: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            sections.setdefault(operation["tags"][0], []).append((path, method.upper(), operation))
    schemas = document["components"]["schemas"]
    for tag, routes in sections.items():
        yield f"<h2>{escape(tag)}</h2>"
        for path, method, operation in routes:
            said = f" <span>{escape(operation['summary'])}</span>" if "summary" in operation else ""
            head = f'<b class="method">{method}</b><code>{escape(path)}</code>{said}'
            fields = "".join(_fields(operation, schemas))
            if fields:
                yield f"<details><summary>{head}</summary><table>{fields}</table></details>"
            else:
                yield f'<div class="plain">{head}</div>'
    yield "</body></html>"


def _fields(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    found = schemas.get(str(body.get("$ref", "")).rpartition("/")[2], body)
    required = found.get("required", ())
    for name, schema in found.get("properties", {}).items():
        mark = " (required)" if name in required else ""
        yield f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(schema) + mark)}</td></tr>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in a few words; null, which is "not given", is left out."""
    if "anyOf" in schema:
        kinds = [_kind(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"] if value is not None)
    if schema.get("type") == "array":
        items = _kind(schema["items"]) if isinstance(schema.get("items"), dict) and schema["items"] else "values"
        return f"list of {items}"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    return str(schema.get("type", "any"))
