"""Jinja in a box: immutable, without reach into Python, and with a :class:`~penstock.text.budget.Budget`.

A thread that computes cannot be stopped from outside, so the template counts for itself: the code generated from it
passes through ``tick`` in every block (hence in every pass of a loop and every call of a macro), and every operation
that can make something larger than its operands is weighed before it is done.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import GeneratorType
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.text.budget import (
    LARGEST_INT_BITS,
    Budget,
    BudgetError,
    Limits,
    braces_size,
    check_int,
    percent_size,
    replace_size,
)
from penstock.text.sandbox_code import CountingCode

WITHOUT_FILTERS = ("pprint", "urlize", "xmlattr", "wordwrap", "random", "forceescape", "striptags", "filesizeformat")
COUNTING_FILTERS = frozenset({"center", "indent", "slice", "batch", "truncate", "round", "int", "tojson"})
WRITING_FILTERS = frozenset(
    {"string", "join", "tojson", "format", "escape", "e", "upper", "lower", "trim", "replace", "indent", "title",
     "capitalize", "urlencode", "truncate", "wordcount", "safe", "center"}
)  # fmt: skip
UNSAFE_METHODS = frozenset({"translate", "maketrans", "encode", "to_bytes", "from_bytes"})


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks an answer for training; for rendering it is nothing but its body."""

    tags = {"generation"}  # noqa: RUF012 (as the base class declares it)

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class RaisedError(Exception):
    """What a template says with ``raise_exception``."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates: settings, globals and ``tojson`` as transformers have them."""

    code_generator_class = CountingCode
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        self._local = threading.local()
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=_finalize,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )  # fmt: skip
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now}
        self.filters = {n: f for n, f in self.filters.items() if n not in WITHOUT_FILTERS}
        self.filters["tojson"] = _tojson
        self.filters = {name: self._counted(name, function) for name, function in self.filters.items()}
        # Generated code takes `concat` from the environment.
        self.concat = self._concat  # type: ignore[method-assign]

    @property
    def budget(self) -> Budget:
        """What is left to the rendering in this thread."""
        budget: Budget = self._local.budget
        return budget

    @contextmanager
    def spending(self, limits: Limits, input_chars: int = 0) -> Iterator[None]:
        """Compile or render within ``limits``."""
        self._local.budget = Budget(limits, input_chars)
        try:
            yield
        finally:
            del self._local.budget

    def tick(self) -> None:
        self.budget.tick()

    def new(self, value: Any) -> Any:
        self.budget.charge(self.budget.weigh(value) // 8)
        return value

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        result = value[start:stop:step]
        self._charge(result)
        return result

    def join_texts(self, parts: tuple[Any, ...]) -> str:
        self.budget.charge(self.budget.weigh(*parts))
        return "".join(map(str, parts))

    def _concat(self, parts: Iterable[str]) -> str:
        kept: list[str] = []
        for part in parts:
            self.budget.charge(len(part))
            kept.append(part)
        return "".join(kept)

    def _charge(self, value: Any) -> None:
        if isinstance(value, (str, bytes)):
            self.budget.charge(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.budget.charge(self.budget.weigh(value) // 8)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.budget.tick()
        if isinstance(left, int) and isinstance(right, int):
            _check_number(operator, left, right)
        elif operator == "%" and isinstance(left, str):
            self.budget.charge(percent_size(left, self.budget.weigh(right)))
        elif operator == "*":
            sizes = [len(v) if hasattr(v, "__len__") else abs(v) if isinstance(v, int) else 1 for v in (left, right)]
            self.budget.charge_sized(sizes[0] * sizes[1], left if hasattr(left, "__len__") else right)
        elif hasattr(left, "__len__") and hasattr(right, "__len__"):
            self.budget.charge_sized(len(left) + len(right), left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self.budget.tick()
        method = getattr(__obj, "__wrapped__", __obj)  # str.format comes wrapped by jinja's sandbox
        owner = getattr(method, "__self__", None)
        if isinstance(owner, (str, int, float, list, tuple, dict, type)):
            __self._check_method(owner, str(getattr(method, "__name__", "")), args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        __self._charge(result)
        return result

    def _check_method(self, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in UNSAFE_METHODS:
            raise SecurityError(f"the method {name!r} is not offered")
        if name not in ("format", "format_map"):
            check_int(*args, *kwargs.values())
        budget = self.budget
        if not isinstance(owner, str):
            return
        if name in ("format", "format_map"):
            budget.charge(braces_size(owner, budget.weigh(*args, *kwargs.values())))
        elif name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
            budget.charge(replace_size(owner, args[0], args[1]))
        elif name == "join":
            if args and isinstance(args[0], GeneratorType):
                raise BudgetError("stopped: join() takes a list; use the filter for anything else")
            budget.charge(budget.weigh(*args) + len(owner) * (len(args[0]) if hasattr(args[0], "__len__") else 1))
        elif name == "expandtabs":
            budget.charge(replace_size(owner, "\t", " " * (args[0] if args and isinstance(args[0], int) else 8)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        at = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.budget.tick()
            value, rest = args[at], args[at + 1 :]
            if name in WRITING_FILTERS and isinstance(value, GeneratorType):
                value = list(value)
            self._check_filter(name, value, rest, kwargs)
            result = function(*args[:at], value, *rest, **kwargs)
            self._charge(result)
            return result

        return counted

    def _check_filter(self, name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        budget = self.budget
        more = (*args, *kwargs.values())
        if name in COUNTING_FILTERS:
            check_int(*more)
        if name == "sum" and any(hasattr(extra, "__len__") and not isinstance(extra, str) for extra in more):
            raise BudgetError("stopped: the filter 'sum' adds numbers only")
        if name not in WRITING_FILTERS:
            return
        size, extra = budget.weigh(value), budget.weigh(*more)
        if name == "format":
            size = percent_size(str(value), extra)
        elif name == "replace":
            size = replace_size(str(value), *(str(v) for v in (*more, "", "")[:2]))
        elif name == "join":
            size += extra * (len(value) if hasattr(value, "__len__") else 1)
        elif name == "indent":
            width = max([4, *(v if isinstance(v, int) else len(str(v)) for v in more)])
            size += (str(value).count("\n") + 1) * width
        elif name == "tojson":
            size += sum(abs(v) for v in more if isinstance(v, int)) * size // 8
        budget.charge(size)


def _check_number(operator: str, left: int, right: int) -> None:
    bits = {"**": left.bit_length() * max(right, 1), "*": left.bit_length() + right.bit_length()}.get(operator, 0)
    if bits > LARGEST_INT_BITS:
        raise BudgetError(f"stopped: a number of more than {LARGEST_INT_BITS} bits")


@jinja2.pass_context
def _finalize(context: Any, value: Any) -> Any:
    """Weigh a value before it is written. (That it takes the context also keeps jinja from computing early.)"""
    if not isinstance(value, str):
        budget: Budget = context.environment.budget
        if type(value).__name__ == "Namespace":
            raise BudgetError("stopped: a namespace cannot be written out")
        budget.charge(budget.weigh(value))
    return value


def _raise(message: object = "") -> None:
    raise RaisedError(str(message)[:1000])


def _strftime_now(form: str) -> str:
    if len(form) > 100 or any(char.isdigit() for char in form):
        raise BudgetError("stopped: a date format of more than 100 characters or with widths")
    return datetime.now().strftime(form)  # noqa: DTZ005 (a template asks for the user's own date)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
