"""A conversation with a model: who said what, how answers are sampled, what of it still fits the context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.chat import render
from penstock.cli.running import fit, stream
from penstock.cli.stats import Stats, measure
from penstock.errors import RequestError
from penstock.types import SamplingParams

if TYPE_CHECKING:
    from penstock.frontend import Prompt
    from penstock.llm import LLM

MAX_TOKENS = 2048
"""Tokens of an answer where the user did not say."""
ROOM = 256
"""Tokens kept free for an answer (a quarter of the context, where that is less)."""


class Conversation:
    """``messages`` is all of it; what no longer fits the context, oldest turn first, is left out of prompts only.

    After an answer: ``finish_reason`` (None: none yet), ``stats``, and ``left_out``, the messages that did not fit.
    """

    def __init__(
        self, llm: LLM, params: SamplingParams, system: str | None = None, asked: bool = False,
        adapter: str | None = None,
    ) -> None:  # fmt: skip
        self.llm = llm
        self.adapter = adapter
        self.defaults = self.params = params
        self.system = system
        self.asked = asked
        self.messages: list[dict[str, Any]] = []
        self.stats: Stats | None = None
        self.finish_reason: str | None = None
        self.left_out = 0
        self._again = 0

    @property
    def context(self) -> int:
        return self.llm.model.max_model_len

    def ask(self, text: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """The answer's text as it comes. An answer that fails, or is stopped before its first word, leaves no trace."""
        self._again = 0
        self.messages.append({"role": "user", "content": text})
        yield from self._answer(stopped)

    def ask_again(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Another answer to the last message; a fixed seed moves on by one. ``RequestError`` if there is none."""
        if not self.messages:
            raise RequestError("there is no message to answer again")
        self._again += 1
        kept = self.messages.pop() if self.messages[-1]["role"] == "assistant" else None
        yield from self._answer(stopped, kept)

    def clear(self) -> None:
        self.messages.clear()
        self.left_out = 0
        self.stats, self.finish_reason = None, None

    def window(self) -> Prompt:
        """The prompt of as many of the last turns as fit; sets ``left_out``."""
        reserve = min(ROOM, self.context // 4)
        start = 0
        while True:
            system = [{"role": "system", "content": self.system}] if self.system else []
            prompt = render(self.llm.model, [*system, *self.messages[start:]])
            following = self._next_turn(start)
            if len(prompt.token_ids) + reserve <= self.context or following is None:
                self.left_out = start
                return prompt
            start = following

    def _next_turn(self, start: int) -> int | None:
        """Where the user's message after the one at ``start`` is."""
        for index in range(start + 1, len(self.messages)):
            if self.messages[index]["role"] == "user":
                return index
        return None

    def _answer(self, stopped: Callable[[], bool], kept: dict[str, Any] | None = None) -> Iterator[str]:
        said, count, last, self.finish_reason = "", 0, None, None
        try:
            prompt = self.window()
            params = fit(self.params, prompt, self.context, self.asked)
            if self._again and params.seed is not None:
                params = replace(params, seed=(params.seed + self._again) % (1 << 63))
            for last in stream(self.llm, prompt, params, stopped, self.adapter):
                answer = last.outputs[0]
                said += answer.text
                count += len(answer.token_ids)
                self.finish_reason = answer.finish_reason
                if answer.text:
                    yield answer.text
        finally:
            if last is not None:
                self.stats = measure([last], count)
            if said:
                self.messages.append({"role": "assistant", "content": said})
            elif kept is not None:
                self.messages.append(kept)
            elif self.finish_reason == "stop":
                self.messages.append({"role": "assistant", "content": ""})
            else:
                self.messages.pop()
