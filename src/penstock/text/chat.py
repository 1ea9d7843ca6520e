"""The chat template of a checkpoint: its own, the user's, or the built-in one of its family."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.errors import ConfigError, nearest
from penstock.text.builtin_templates import FORMATS, Format, format_variables, select_template
from penstock.text.templates import ChatTemplate
from penstock.text.tokenizer import Tokenizer


def chat_template(
    tokenizer: Tokenizer,
    family: str | None = None,
    hints: Mapping[str, object] | None = None,
    *,
    source: str | None = None,
    name: str | None = None,
) -> ChatTemplate:
    """The template to render chats with.

    ``source``: a Jinja template that the user gives. ``name``: a template of the checkpoint, or a built-in format.
    Else the checkpoint's template, else the built-in format of ``family`` (``hints``: its ``config.json``).
    """
    named = tokenizer.chat_templates
    if source is not None:
        return _own(tokenizer, source, "chat_template given by the user")
    if name is not None and name in named:
        return _own(tokenizer, named[name], f"chat_template {name!r} of the checkpoint")
    if name is not None:
        if name not in FORMATS:
            known = [*named, *FORMATS]
            raise ConfigError(f"no chat template {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        return _built_in(tokenizer, FORMATS[name])
    if (default := tokenizer.chat_template) is not None:
        return _own(tokenizer, default, "chat_template of the checkpoint", named.get("tool_use"))
    return _built_in(tokenizer, select_template(family, tokenizer, hints))


def _own(tokenizer: Tokenizer, source: str, name: str, tool_source: str | None = None) -> ChatTemplate:
    return ChatTemplate(source, name, tokenizer.special_tokens, tuple(tokenizer.control_texts), tool_source=tool_source)


def _built_in(tokenizer: Tokenizer, chosen: Format) -> ChatTemplate:
    variables = {"bos_token": "", "eos_token": "", **tokenizer.special_tokens, **format_variables(chosen, tokenizer)}
    return ChatTemplate(
        chosen.source,
        f"built-in chat template {chosen.name!r}",
        variables,
        tuple(tokenizer.control_texts),
        add_special_tokens=chosen.add_special_tokens,
        stop_strings=chosen.stop_strings,
        stop_tokens=chosen.stop_tokens,
        note=chosen.note,
    )
