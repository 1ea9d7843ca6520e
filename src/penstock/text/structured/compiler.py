"""Structured outputs to constraints, by llguidance: https://github.com/guidance-ai/llguidance (an Earley parser over
derivatives of regular expressions, so that nothing is enumerated ahead of time).

A specification is bounded (``schema``, ``regex``), tried in a process that can be killed (``trial``), and only then
compiled here, for the model's vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import OverloadedError, RequestError, missing
from penstock.text.structured import schema as schemas
from penstock.text.structured.constraint import GrammarConstraint, StructuredOutputError, Usage, short
from penstock.text.structured.regex import MAX_LENGTH
from penstock.text.structured.regex import problem as regex_problem
from penstock.text.structured.thoughts import THINK, THOUGHT, AfterThoughts, Anything, spelt
from penstock.text.structured.trial import Trial
from penstock.text.structured.vocabulary import Vocabulary
from penstock.text.structured.worker import LIMITS
from penstock.types import U32, Constraint, StructuredKind, StructuredOutputs

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

MAX_SOURCE: dict[StructuredKind, int] = {
    "json": 256 << 10, "structural_tag": 256 << 10, "regex": MAX_LENGTH, "choice": 256 << 10, "grammar": 64 << 10,
    "json_object": 16,
}  # fmt: skip
KEPT = 64
KEPT_BYTES = 256 << 20
STEPS = 24
WAIT_SECONDS = 5.0
WORN_TOKENS = 16_384
WORN_SECONDS = 1.0
# A schema's own blank space is unlimited; a model that has lost its way would fill the answer with it.
WHITESPACE = r" |\r?\n[ \t]{0,32}"


@dataclass(slots=True, eq=False)
class _Compiled:
    """A matcher at its start. Its automaton grows with use and is shared by its copies, so it wears out."""

    grammar: str
    matcher: Any
    usage: Usage = field(default_factory=Usage)

    @property
    def worn(self) -> bool:
        return self.usage.tokens > WORN_TOKENS or self.usage.seconds > WORN_SECONDS

    @property
    def nbytes(self) -> int:
        """An estimate: some hundred bytes a character of grammar, and states at about 50 MB a second of masks."""
        return (64 << 10) + 256 * len(self.grammar) + int(min(self.usage.seconds, WORN_SECONDS) * 50e6)


class GrammarCompiler:
    """Compiles for one tokenizer and model; compiled grammars are kept, the last ones used. Safe to share by threads.

    ``vocab_size``: rows of the model's output; those beyond the tokenizer's are never allowed. ``eos_ids``: what may
    end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(i for i in eos_ids if 0 <= i < vocab_size)
        self._ends: U32 = _bits(self._eos_ids, vocab_size)
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._kept: OrderedDict[bytes, _Compiled] = OrderedDict()
        self._library: Any = None
        self._ll_tokenizer: Any = None
        self._trial = Trial()

    def compile(
        self, spec: StructuredOutputs, min_tokens: int = 0, allowed: Iterable[int] | None = None
    ) -> GrammarConstraint:
        """A constraint at its start, for one answer. May take seconds: not for an event loop.

        ``allowed``: the only tokens that may be taken; an end token should be among them.

        Raises ``RequestError`` with the reason for what cannot be honoured, ``MissingDependencyError`` without
        llguidance, ``OverloadedError`` if others' grammars keep it waiting, ``ExecutionError`` if no process starts.
        """
        self._prepare(spec.param)
        kind, source, options = _source(spec)
        try:
            key = _key(kind, source, options)
            found = self._usable(key) or self._in_turn(key, kind, source, options)
            return self._start(found, min_tokens, allowed)
        except (ValueError, StructuredOutputError) as error:
            raise RequestError(f"{spec.param} cannot be honoured: {short(str(error))}", spec.param) from None

    def find(
        self, spec: StructuredOutputs, min_tokens: int = 0, allowed: Iterable[int] | None = None
    ) -> GrammarConstraint | None:
        """As :meth:`compile` for what is compiled already, at once; else None. Waits for nobody."""
        if self._ll_tokenizer is None:
            return None
        found = self._usable(_key(*_source(spec)))
        try:
            return None if found is None else self._start(found, min_tokens, allowed)
        except StructuredOutputError as error:
            raise RequestError(f"{spec.param} cannot be honoured: {short(str(error))}", spec.param) from None

    def after_thoughts(
        self, constraint: Constraint | None, begun: bool, budget: int | None = None, min_tokens: int = 0
    ) -> Constraint | None:
        """``constraint`` (None: none) for an answer that may think before it; ``begun``: its prompt has begun to.

        ``budget``: tokens of thought at most. Where a text begins thoughts that is no token, they cannot be waited for.
        Raises ``RequestError`` if the tokenizer has no way to end them.
        """
        tokenizer = self._tokenizer
        ids = tokenizer.encode(THINK.decode(), add_special_tokens=False)
        start = ids[0] if len(ids) == 1 and not begun else None
        if not begun and start is None:
            return constraint
        free = _bits(range(min(tokenizer.vocab_size, self._vocab_size)), self._vocab_size) & ~self._ends
        inner = Anything(free, self._ends, min_tokens) if constraint is None else constraint
        close = spelt(tokenizer, THOUGHT) if budget is not None else ()
        return AfterThoughts(inner, free, tokenizer.token_bytes, start, begun, budget, close)

    def close(self) -> None:
        """Forget everything and end the child process."""
        with self._lock:
            self._kept.clear()
        self._trial.close()

    @property
    def kept(self) -> tuple[int, int]:
        """Compiled grammars in memory, and an estimate of their bytes."""
        with self._lock:
            return len(self._kept), sum(c.nbytes for c in self._kept.values())

    def _start(self, found: _Compiled, min_tokens: int, allowed: Iterable[int] | None) -> GrammarConstraint:
        only = None if allowed is None else _bits(allowed, self._vocab_size)
        return GrammarConstraint(found.matcher.deep_copy(), self._ends, found.usage, min_tokens, only)

    def _usable(self, key: bytes) -> _Compiled | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None or found.worn:
                return None
            self._kept.move_to_end(key)
            return found

    def _in_turn(self, key: bytes, kind: str, source: str, options: dict[str, Any]) -> _Compiled:
        """Compile, one grammar at a time; who waited for the same one takes it from the others."""
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            raise OverloadedError("too many grammars wait to be compiled")
        try:
            found = self._usable(key)
            if found is None:
                with self._lock:
                    worn = self._kept.get(key)
                found = self._compile(kind, source, options, worn)
                self._keep(key, found)
            return found
        finally:
            self._turn.release()

    def _compile(self, kind: str, source: str, options: dict[str, Any], worn: _Compiled | None) -> _Compiled:
        grammar = worn.grammar if worn is not None else self._trial.run(kind, source, options)
        limits = self._library.LLParserLimits(**LIMITS)
        matcher = self._library.LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        if worn is None:
            _follow(GrammarConstraint(matcher.deep_copy(), self._ends, Usage()), self._ends)
        return _Compiled(grammar, matcher)

    def _keep(self, key: bytes, compiled: _Compiled) -> None:
        with self._lock:
            self._kept[key] = compiled
            self._kept.move_to_end(key)
            total = sum(c.nbytes for c in self._kept.values())
            while self._kept and (len(self._kept) > KEPT or total > KEPT_BYTES):
                total -= self._kept.popitem(last=False)[1].nbytes

    def _prepare(self, param: str) -> None:
        """The library and the vocabulary in its form, made once."""
        with self._lock:
            if self._ll_tokenizer is not None:
                return
            try:
                self._library = import_module("llguidance")
            except ImportError:
                raise missing("llguidance", "structured") from None
            if not self._eos_ids:
                raise RequestError(f"{param} needs a token that ends an answer, and this model has none", param)
            vocabulary = Vocabulary(self._tokenizer, self._eos_ids)
            self._ll_tokenizer = self._library.LLTokenizer(
                self._library.TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens), eos_token=[self._eos_ids[0]]
            )


def _follow(constraint: GrammarConstraint, ends: U32) -> None:
    """Take a few allowed tokens at random: what is too hard to follow raises ``StructuredOutputError`` now."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        allowed = np.flatnonzero(np.unpackbits((constraint.mask() & ~ends).view(np.uint8), bitorder="little"))
        if not len(allowed):
            return
        constraint.accept(int(rng.choice(allowed)))


def _bits(ids: Iterable[int], size: int) -> U32:
    mask = np.zeros((size + 31) // 32, np.uint32)
    for i in ids:
        if 0 <= i < size:
            mask[i // 32] |= np.uint32(1 << (i % 32))
    mask.flags.writeable = False
    return mask


def _key(kind: str, source: str, options: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps([kind, source, options]).encode("utf-8", "surrogatepass")).digest()


def _source(spec: StructuredOutputs) -> tuple[str, str, dict[str, Any]]:
    """(kind, text, options) for the trial. Raises ``RequestError`` for what is refused without one."""
    kind, value = spec.kind, spec.value
    try:
        if len(value) > MAX_SOURCE[kind]:
            raise ValueError(f"{len(value)} characters are more than {MAX_SOURCE[kind]}")
        if kind in ("json", "json_object"):
            schema = schemas.read(value) if kind == "json" else {"type": "object"}
            schemas.check(schema)
            if spec.disable_additional_properties or not schemas.is_composed(schema):
                schema = schemas.without_more_properties(schema)
            return "json", json.dumps(schema), _json_options(spec)
        if kind == "structural_tag":
            return kind, _tags(value), {}
        found = regex_problem(value) if kind == "regex" else None
        if found:
            raise ValueError(found)
    except ValueError as error:
        raise RequestError(f"{spec.param} cannot be honoured: {short(str(error))}", spec.param) from None
    return kind, value, {}


def _json_options(spec: StructuredOutputs) -> dict[str, Any]:
    pattern = spec.whitespace_pattern
    found = regex_problem(pattern) if pattern is not None else None
    if found:
        raise ValueError(found)
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False}
    if spec.disable_any_whitespace:
        return {**options, "whitespace_flexible": False}
    return {**options, "whitespace_pattern": WHITESPACE if pattern is None else pattern}


def _tags(text: str) -> str:
    """vLLM's ``{"structures": [{"begin", "schema", "end"}], "triggers": […]}`` as one list, each with its trigger."""
    given = schemas.read(text)
    if not isinstance(given.get("structures"), list) or not given["structures"]:
        raise ValueError("a structural tag needs 'structures' and 'triggers'")
    triggers = given.get("triggers")
    if not isinstance(triggers, list) or not all(isinstance(t, str) and t for t in triggers):
        raise ValueError("'triggers' must be a list of texts")
    tags = []
    for structure in given["structures"]:
        if not isinstance(structure, dict) or not all(isinstance(structure.get(k), str) for k in ("begin", "end")):
            raise ValueError("each structure needs 'begin', 'schema' and 'end'")
        begin, schema = structure["begin"], structure.get("schema")
        trigger = next((t for t in triggers if begin.startswith(t)), None)
        if trigger is None:
            raise ValueError(f"no trigger begins {begin[:80]!r}")
        if not isinstance(schema, dict):
            raise ValueError("the schema of a structure must be an object")
        schemas.check(schema)
        tags.append({"trigger": trigger, "begin": begin, "schema": schema, "end": structure["end"]})
    return json.dumps(tags)
