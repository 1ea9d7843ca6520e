"""Prompts of requests, made off the event loop: encoding, rendering, truncation, and an early no to long ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from penstock.async_llm import AsyncLLM
from penstock.chat import render
from penstock.errors import RequestError
from penstock.frontend import Prompt
from penstock.types import Message

MAX_PROMPTS = 1024
MAX_TEMPLATE_KWARGS = 64

PromptItem = str | list[int]


@dataclass(frozen=True, slots=True)
class Truncation:
    """Keep ``tokens`` of a prompt: its end (``left`` is cut), or its beginning."""

    tokens: int
    side: Literal["left", "right"] = "left"


async def encode_prompts(
    llm: AsyncLLM,
    prompts: Sequence[PromptItem],
    *,
    add_special_tokens: bool = True,
    truncation: Truncation | None = None,
) -> list[Prompt]:
    """Prompts given as text or ids. Raises ``RequestError`` for an empty or over-long one."""

    def work() -> list[Prompt]:
        found = []
        for prompt in prompts:
            if isinstance(prompt, str):
                check_length(llm, prompt, truncation)
            encoded = llm.frontend.encode(prompt, add_special_tokens=add_special_tokens, bounded=truncation is None)
            found.append(truncate(encoded, truncation))
        return found

    if all(not isinstance(p, str) for p in prompts):
        return work()
    return await asyncio.to_thread(work)


async def render_chat(
    llm: AsyncLLM,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    truncation: Truncation | None = None,
) -> Prompt:
    """The prompt of a conversation, by the model's own template: requests bring none."""
    if kwargs and len(kwargs) > MAX_TEMPLATE_KWARGS:
        raise RequestError(f"at most {MAX_TEMPLATE_KWARGS} chat_template_kwargs", "chat_template_kwargs")

    def work() -> Prompt:
        for message in messages:
            content = message.get("content")
            if isinstance(content, str):
                check_length(llm, content, truncation, "messages")
        prompt = render(
            llm.model,
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            kwargs=kwargs,
        )
        return truncate(prompt, truncation)

    return await asyncio.to_thread(work)


def check_length(llm: AsyncLLM, text: str, truncation: Truncation | None = None, param: str = "prompt") -> None:
    """Refuse a text that cannot fit however it is cut into tokens, before time is spent on cutting it."""
    if truncation is None:
        llm.frontend.check_length(text, param)


def truncate(prompt: Prompt, truncation: Truncation | None) -> Prompt:
    if truncation is None or len(prompt.token_ids) <= truncation.tokens:
        return prompt
    ids = prompt.token_ids
    kept = ids[-truncation.tokens :] if truncation.side == "left" else ids[: truncation.tokens]
    return replace(prompt, token_ids=kept)
