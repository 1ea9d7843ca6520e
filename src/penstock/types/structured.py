"""Structured output: what a request asks of the form of its answer."""

from __future__ import annotations

import json as _json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from penstock.errors import RequestError, nearest

MAX_CHOICES = 4096
StructuredKind = Literal["json", "regex", "choice", "grammar", "json_object", "structural_tag"]
STRUCTURED: tuple[StructuredKind, ...] = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """What an answer must be: exactly one of the first six. Names and meanings as vLLM's.

    ``json``: a JSON schema (a mapping, a boolean, or its text); ``json_object``: any JSON object; ``regex``: the whole
    answer, in the syntax of Rust's regex crate; ``choice``: one of these texts; ``grammar``: Lark or GBNF;
    ``structural_tag``: ``{"structures": [{"begin", "schema", "end"}], "triggers": […]}`` (or its text): free text, in
    which whatever begins with a trigger goes on as its schema says. ``whitespace_pattern``: a regular expression for
    the blank space within JSON; ``disable_any_whitespace``: none; ``disable_additional_properties``: objects have no
    others than those listed, as they have none anyway where the schema lists them in one place. ``param``: how the
    request calls this, for error messages. Raises ``RequestError``.
    """

    json: Mapping[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Mapping[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    param: str = "structured_outputs"

    def __post_init__(self) -> None:
        named = [name for name in STRUCTURED if getattr(self, name) is not None and getattr(self, name) is not False]
        if self.json is False:
            named.insert(0, "json")
        if len(named) != 1:
            said = f"not both {named[0]} and {named[1]}" if named else "none is given"
            raise self.bad(f"give one of {', '.join(STRUCTURED)}: {said}")
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise self.bad(f"{name} must be true or false")
        if self.whitespace_pattern is not None and not isinstance(self.whitespace_pattern, str):
            raise self.bad("whitespace_pattern must be a regular expression as text")
        object.__setattr__(self, named[0], self._checked(named[0]))

    @classmethod
    def of(cls, given: Mapping[str, Any], param: str = "structured_outputs") -> StructuredOutputs:
        """From a request's mapping. Raises ``RequestError`` for a name that is unknown."""
        known = [f.name for f in fields(cls) if f.name != "param"]
        for name in given:
            if name not in known:
                raise RequestError(f"{param}: unknown option '{str(name)[:64]}'{nearest(str(name), known)}", param)
        return cls(**{name: value for name, value in given.items() if value is not None}, param=param)

    @property
    def kind(self) -> StructuredKind:
        return next(k for k in STRUCTURED if getattr(self, k) is not None and (k == "json" or getattr(self, k)))

    @property
    def value(self) -> str:
        """The specification as text: JSON for schemas, tags and choices."""
        found = getattr(self, self.kind)
        return found if isinstance(found, str) else _json.dumps(found)  # true, for json_object

    def _checked(self, name: str) -> Any:
        value = getattr(self, name)
        if name in ("json", "structural_tag") and isinstance(value, bool | Mapping) and (name == "json" or value):
            try:
                return _json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise self.bad(f"{name} is no JSON, or nested too deeply: {str(error)[:200]}") from None
        if name == "json_object":
            if value is not True:
                raise self.bad("json_object must be true")
        elif name == "choice":
            listed = not isinstance(value, str) and isinstance(value, Sequence) and 0 < len(value) <= MAX_CHOICES
            if not listed or any(not isinstance(text, str) or not text for text in value):
                raise self.bad(f"choice must be a list of 1 to {MAX_CHOICES} texts, none empty")
            return tuple(value)
        elif not isinstance(value, str) or not value:
            raise self.bad(f"{name} must be {'a JSON schema' if name == 'json' else 'text'}, not empty")
        return value

    def bad(self, message: str) -> RequestError:
        return RequestError(f"{self.param}: {message}", self.param)
