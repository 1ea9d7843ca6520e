"""Grammars to constraints, by llguidance: off the event loop, with limits and a deadline, the last ones kept."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.assemble import Model
from penstock.errors import ExecutionError, RequestError, missing
from penstock.server.structured.grammar import Grammar
from penstock.types import U32

if TYPE_CHECKING:
    from penstock.text.tokenizer import Tokenizer

KEPT = 64
SECONDS = 10.0
LIMITS = {
    "max_grammar_size": 200_000,
    "initial_lexer_fuel": 2_000_000,
    "max_lexer_states": 100_000,
    "max_items_in_row": 2000,
}


class Constraint:
    """What may come next in one answer. Used from the engine's thread only.

    ``mask`` [ceil(vocab/32)] has a bit for each token that is allowed; ``accept`` moves on by a token; ``copy`` is for
    a sibling that has the same tokens so far.
    """

    def __init__(self, matcher: Any, words: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(words, np.uint32)

    def mask(self) -> U32:
        data = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        self._mask[: len(data)] = data[: len(self._mask)]
        return self._mask

    def accept(self, token: int) -> None:
        """Raises ``ExecutionError`` for a token that cannot be taken, or when the grammar's limits are reached."""
        if not self._matcher.consume_token(token):
            raise ExecutionError(f"constrained output stopped: {_short(self._matcher.get_error())}")

    def copy(self) -> Constraint:
        return Constraint(self._matcher.deep_copy(), len(self._mask))


class Compiler:
    """Compiles for one model. Safe to use from several threads."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[Grammar, Any] = OrderedDict()
        self._words = (model.architecture.vocab_size + 31) // 32

    async def constraint(self, grammar: Grammar) -> Constraint:
        """Raises ``RequestError`` with the reason when the grammar cannot be honoured."""
        work = asyncio.get_running_loop().run_in_executor(None, self.compile, grammar)
        try:
            return await asyncio.wait_for(asyncio.shield(work), SECONDS)
        except TimeoutError:
            raise RequestError(f"{grammar.param}: it takes more than {SECONDS:g} s to compile", grammar.param) from None

    def compile(self, grammar: Grammar) -> Constraint:
        with self._lock:
            matcher = self._kept.get(grammar)
            if matcher is None:
                matcher = self._compile(grammar)
                self._kept[grammar] = matcher
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(grammar)
            return Constraint(matcher.deep_copy(), self._words)

    def _compile(self, grammar: Grammar) -> Any:
        try:
            llguidance: Any = import_module("llguidance")
        except ImportError:
            raise missing("llguidance", "structured") from None
        form = {"json": "json_schema"}.get(grammar.kind, grammar.kind)
        try:
            text = llguidance.grammar_from(form, grammar.source)
            matcher = llguidance.LLMatcher(
                self._ll_tokenizer(llguidance), text, log_level=0, limits=llguidance.LLParserLimits(**LIMITS)
            )
            problem = matcher.get_error()
        except (ValueError, TypeError, RecursionError) as error:
            problem = str(error)
        if problem:
            raise RequestError(f"{grammar.param}: it cannot be honoured: {_short(problem)}", grammar.param)
        return matcher

    def _ll_tokenizer(self, llguidance: Any) -> Any:
        if self._tokenizer is None:
            tokenizer = self._model.tokenizer
            if tokenizer is None:
                raise RequestError("constrained output needs a tokenizer, and this model was loaded without one")
            ends = sorted(t for t in self._model.eos_ids if t < tokenizer.vocab_size)
            if not ends:
                raise RequestError("constrained output needs an end token, and this model has none")
            wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, ends[0]))
            self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=ends)
        return self._tokenizer


class _Vocabulary:
    """Our tokenizer as llguidance wants to see one."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id = end
        self.bos_token_id = tokenizer.bos_id
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids)

    def __call__(self, data: bytes | str) -> list[int]:
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        return self._encode(text, add_special_tokens=False, parse_special=False)


def _short(message: str) -> str:
    return " ".join(message.split())[:300]
