"""Conversations to prompts: the template (the checkpoint's or a built-in one) rendered and encoded; one BOS."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.errors import RequestError
from penstock.frontend import Prompt
from penstock.types import Message

if TYPE_CHECKING:
    from penstock.assemble import Model
    from penstock.text.templates import ChatTemplate


logger = logging.getLogger(__name__)


def template(model: Model, source: str | None = None) -> ChatTemplate:
    """The model's chat template; ``source`` is a Jinja text or the name of a template to use instead."""
    if model.tokenizer is None:
        raise RequestError("chat needs a tokenizer, and this model was loaded without one (skip_tokenizer_init)")
    source = source or model.config.model.chat_template
    key = source or ""
    if key not in model.templates:
        from penstock.text.chat import chat_template

        jinja = source is not None and ("{" in source or "\n" in source)
        model.templates[key] = chat_template(
            model.tokenizer,
            model.family.name,
            model.settings,
            source=source if jinja else None,
            name=None if jinja else source,
        )
        if model.templates[key].note:
            logger.warning("%s", model.templates[key].note)
        while len(model.templates) > 16:
            del model.templates[next(iter(model.templates))]
    return model.templates[key]


def render(
    model: Model,
    messages: Sequence[Message],
    *,
    chat_template: str | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Prompt:
    """The prompt of a conversation. Raises ``TemplateError`` or ``RequestError`` naming what is wrong with it.

    Text inside messages cannot become control tokens: only what the template itself writes can.
    """
    if model.tokenizer is None:
        raise RequestError("chat needs a tokenizer, and this model was loaded without one (skip_tokenizer_init)")
    chosen = template(model, chat_template)
    rendered = chosen.render(
        messages,
        tools=tools,
        documents=documents,
        add_generation_prompt=add_generation_prompt and not continue_final_message,
        continue_final_message=continue_final_message,
        template_kwargs=kwargs,
    )
    tokenizer = model.tokenizer
    ids = tokenizer.encode_prompt(rendered.text, rendered.add_special_tokens, rendered.breaks)
    control = tokenizer.control_texts
    stop_ids = tuple(control[token] for token in chosen.stop_tokens if token in control)
    return Prompt(ids, rendered.text, not continue_final_message, chosen.stop_strings, stop_ids)
