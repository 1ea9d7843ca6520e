"""JSON schemas before they are compiled: bounded in every direction, references inside the document only, and with at
least one answer that ends. What the compiler does not implement it refuses itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from penstock.text.structured.regex import problem as regex_problem

MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_PROPERTIES = 5_000
MAX_PROPERTIES_EACH = 1_000
MAX_VALUES = 20_000
MAX_REFERENCES = 2_000
MAX_VISITS = 200_000

_VALUES = ("enum", "const", "default", "examples")  # they hold values, not schemas
_ELSEWHERE = frozenset({
    "$ref", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "unevaluatedProperties", "patternProperties",
    "propertyNames", "minProperties",
})  # fmt: skip
"""Beside ``properties``: others are spoken of."""


def read(text: str) -> dict[str, Any]:
    """The schema as Python values, ``{}`` for true. Raises ``ValueError`` with the reason."""
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"the schema is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ValueError(f"the schema is no JSON: {error}") from None
    if schema is False:
        raise ValueError("no answer fits the schema false")
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is an object or true, not {type(schema).__name__}")
    return schema


def check(schema: Any) -> None:
    """Raises ``ValueError`` with the reason for a schema that is refused."""
    nodes = properties = values = 0
    references: set[str] = set()
    for node, depth in _walk(schema):
        nodes += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is nested more than {MAX_DEPTH} deep")
        if nodes > MAX_NODES:
            raise ValueError(f"the schema has more than {MAX_NODES} parts")
        if not isinstance(node, dict):
            continue
        own = node.get("properties")
        count = len(own) if isinstance(own, dict) else 0
        properties += count
        if count > MAX_PROPERTIES_EACH or properties > MAX_PROPERTIES:
            raise ValueError(
                f"the schema has more than {MAX_PROPERTIES_EACH} properties in one object or {MAX_PROPERTIES} in all"
            )
        values += len(node["enum"]) if isinstance(node.get("enum"), list) else 0
        if values > MAX_VALUES:
            raise ValueError(f"the schema's enums have more than {MAX_VALUES} values")
        _check_patterns(node)
        if isinstance(node.get("$ref"), str):
            references.add(node["$ref"])
    _check_references(schema, references)


def without_more_properties(schema: Any) -> Any:
    """A copy in which objects that list properties, and do not say whether there may be others, allow no others."""
    if isinstance(schema, list):
        return [without_more_properties(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {k: v if k in _VALUES else without_more_properties(v) for k, v in schema.items()}
    if isinstance(copy.get("properties"), dict) and "additionalProperties" not in copy:
        copy["additionalProperties"] = False
    return copy


def is_composed(schema: Any) -> bool:
    """Whether some object may have properties that are not listed beside its others: then no list is a whole one."""
    for node, _ in _walk(schema):
        if isinstance(node, dict) and _is_map(node, "properties"):
            required = node.get("required")
            if not _ELSEWHERE.isdisjoint(node) or (
                isinstance(required, list) and not all(name in node["properties"] for name in required)
            ):
                return True
        if isinstance(node, dict) and "allOf" in node:
            return True
    return False


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _walk(schema: Any) -> Iterator[tuple[Any, int]]:
    """Every container and what is in it, with its depth; values that are no schemas are left out."""
    stack: list[tuple[Any, int]] = [(schema, 0)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        if isinstance(node, dict):
            stack += [(v, depth + 1) for k, v in node.items() if k not in _VALUES and isinstance(v, dict | list)]
        elif isinstance(node, list):
            stack += [(v, depth + 1) for v in node if isinstance(v, dict | list)]


def _check_patterns(node: Mapping[str, Any]) -> None:
    if isinstance(node.get("x-guidance"), dict):
        raise ValueError("'x-guidance' in a schema is not supported: remove it")
    patterns = [node.get("pattern"), *(node["patternProperties"] if _is_map(node, "patternProperties") else ())]
    for pattern in patterns:
        found = regex_problem(pattern) if isinstance(pattern, str) else None
        if found:
            raise ValueError(found)


def _is_map(node: Mapping[str, Any], key: str) -> bool:
    return isinstance(node.get(key), dict)


def _check_references(schema: Any, references: set[str]) -> None:
    if len(references) > MAX_REFERENCES:
        raise ValueError(f"the schema has more than {MAX_REFERENCES} references")
    for reference in references:
        if not reference.startswith("#"):
            raise ValueError(f"$ref {reference[:80]!r} leads out of the schema: put what it names under $defs")
    if references and not _Ends(schema, references).found():
        raise ValueError("the schema requires itself without end (a recursive $ref that no answer can satisfy)")


class _Ends:
    """Whether a finite answer exists, as the least fixed point over the schema's references.

    Errs towards yes: only objects' required properties and arrays' least lengths are looked at.
    """

    def __init__(self, schema: Any, references: set[str]) -> None:
        self.schema = schema
        self.targets = {reference: _resolve(schema, reference) for reference in sorted(references)}
        self.ending: set[str] = set()
        self.visits = 0

    def found(self) -> bool:
        order = list(self.targets)
        grown = True
        while grown:
            order.reverse()  # chains resolve in one pass in one of the two directions
            before = len(self.ending)
            for reference in order:
                if reference not in self.ending and self._ends(self.targets[reference]):
                    self.ending.add(reference)
            grown = len(self.ending) > before
        return self._ends(self.schema)

    def _ends(self, node: Any) -> bool:
        self.visits += 1
        if self.visits > MAX_VISITS:
            raise ValueError("the schema's references are too entangled: use fewer of them")
        if not isinstance(node, dict) or "const" in node or "enum" in node:
            return True
        reference = node.get("$ref")
        if isinstance(reference, str) and reference not in self.ending:
            return False
        if isinstance(node.get("allOf"), list) and not all(self._ends(n) for n in node["allOf"]):
            return False
        for key in ("anyOf", "oneOf"):
            if isinstance(node.get(key), list) and not any(self._ends(n) for n in node[key]):
                return False
        kind = node.get("type")
        if kind in ("object", ["object"]):
            own = node["properties"] if _is_map(node, "properties") else {}
            required = node["required"] if isinstance(node.get("required"), list) else []
            return all(self._ends(own[name]) for name in required if isinstance(name, str) and name in own)
        if kind in ("array", ["array"]) and isinstance(node.get("minItems"), int) and node["minItems"] > 0:
            first = node["prefixItems"] if isinstance(node.get("prefixItems"), list) else []
            rest = [node.get("items", True)] if node["minItems"] > len(first) else []
            return all(self._ends(n) for n in [*first[: node["minItems"]], *rest])
        return True


def _resolve(schema: Any, reference: str) -> Any:
    """What a JSON pointer names; True (anything) where it names nothing: the compiler will say so."""
    node = schema
    for part in unquote(reference[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return True
    return node
