"""Chat templates: messages to the text of a prompt.

A template comes from the checkpoint, from the user, or from :mod:`penstock.text.builtin_templates`. It is rendered in
:mod:`penstock.text.sandbox`. Control tokens which a user writes into a message are kept from being read as such.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.errors import RequestError, TemplateError
from penstock.text.budget import BudgetError, Limits
from penstock.text.messages import check_messages

SOURCE_LIMIT = 512 * 1024
OWN_NAMES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception",
     "strftime_now", "range", "dict", "namespace", "cycler", "joiner", "lipsum", "loop", "self", "caller", "varargs",
     "kwargs", "tokenize", "chat_template", "return_dict", "return_tensors", "bos_token", "eos_token", "unk_token",
     "pad_token", "true", "false", "none", "True", "False", "None"}
)  # fmt: skip
GUARDED_ROLES = frozenset({"user", "tool", "function", "observation", "ipython", "context"})
MARKS = range(0x10F800, 0x10FFFE)


@dataclass(frozen=True)
class Rendered:
    """A prompt. ``breaks``: positions in ``text`` inside words that look like control tokens but are a user's.

    Encode it with ``tokenizer.encode_prompt(text, add_special_tokens, breaks)``.
    """

    text: str
    breaks: frozenset[int] = frozenset()
    add_special_tokens: bool = False


@dataclass
class ChatTemplate:
    """A compiled-on-demand template and what belongs to its format. Safe to share between threads.

    ``special_tokens``: variables such as ``bos_token``. ``control``: texts of control tokens, guarded in what users
    write. ``add_special_tokens``: whether encoding adds what the tokenizer puts around a text. ``stop_strings``,
    ``stop_tokens``: what ends an answer in this format. ``note``: what a user should know, or empty.
    """

    source: str
    name: str = "chat_template"
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    control: Sequence[str] = ()
    add_special_tokens: bool = False
    stop_strings: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    note: str = ""
    tool_source: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for source in (self.source, self.tool_source or ""):
            if len(source) > SOURCE_LIMIT:
                raise TemplateError(f"{self.name}: {len(source)} characters, more than the {SOURCE_LIMIT} allowed")
        self._lock = threading.Lock()
        self._compiled: dict[str, tuple[Any, Any]] = {}
        words = sorted((word for word in self.control if len(word) > 1), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, words))) if words else None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The prompt for ``messages``. ``continue_final_message`` leaves the last message open to be continued.

        Raises RequestError for messages or arguments that are wrong, TemplateError when the template fails or is
        stopped.
        """
        plain = check_messages(messages)
        extra = _check_kwargs(template_kwargs or {})
        final = plain[-1]["content"]
        if continue_final_message and not final:
            raise RequestError("continue_final_message needs a last message with text", param="messages")
        papers = [dict(entry) for entry in documents or ()]
        mark, end = _free_marks(plain)
        self._guard(plain, papers, mark)
        size = sum(len(message["content"] or "") for message in plain)
        if continue_final_message:
            plain[-1]["content"] += end
        variables = {
            **self.special_tokens,
            **extra,
            "messages": plain,
            "tools": [dict(tool) for tool in tools] if tools else None,
            "documents": papers or None,
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        source = self.tool_source if tools and self.tool_source else self.source
        text = self._render(source, variables, size)
        if continue_final_message:
            text, found, _ = text.rpartition(end)
            if not found:
                raise TemplateError(f"{self.name}: it does not show the last message, so that cannot be continued")
        clean, breaks = _positions(text, mark)
        return Rendered(clean, breaks, self.add_special_tokens)

    def _guard(self, messages: list[dict[str, Any]], documents: list[dict[str, Any]], mark: str) -> None:
        """Put ``mark`` into each control token that a user wrote."""
        if self._control is None:
            return
        pattern = self._control
        places = [(m, "content") for m in messages if m["role"] in GUARDED_ROLES]
        places += [(d, key) for d in documents for key in d]
        found = [(o, k) for o, k in places if isinstance(o[k], str) and pattern.search(o[k])]
        for holder, key in found:
            holder[key] = _mark(pattern, holder[key], mark)

    def _render(self, source: str, variables: Mapping[str, Any], size: int) -> str:
        import jinja2

        from penstock.text.sandbox import RaisedError

        sandbox, template = self._compile(source)
        try:
            with sandbox.spending(self.limits, size):
                text: str = template.render(variables)
        except RaisedError as error:
            raise TemplateError(f"{self.name} refuses the messages: {error}", param="messages") from None
        except BudgetError as error:
            raise TemplateError(f"{self.name}: {error}") from None
        except RecursionError:
            raise TemplateError(f"{self.name}: it calls itself too deeply") from None
        except (jinja2.TemplateError, MemoryError) as error:
            raise TemplateError(f"{self.name}: {_reason(error)}") from None
        except Exception as error:
            raise TemplateError(f"{self.name}: {type(error).__name__}: {_reason(error)}") from error
        return text

    def _compile(self, source: str) -> tuple[Any, Any]:
        import jinja2

        from penstock.text.sandbox import Sandbox

        with self._lock:
            if (compiled := self._compiled.get(source)) is not None:
                return compiled
            sandbox = Sandbox()
            try:
                with sandbox.spending(self.limits):
                    template = sandbox.from_string(source)
            except jinja2.TemplateSyntaxError as error:
                raise TemplateError(f"{self.name}: line {error.lineno}: {_reason(error)}") from None
            except (BudgetError, SyntaxError, RecursionError, MemoryError, ValueError, jinja2.TemplateError) as error:
                raise TemplateError(f"{self.name}: cannot be compiled: {_reason(error)}") from None
            self._compiled[source] = (sandbox, template)
            return sandbox, template


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _check_kwargs(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise RequestError(f"chat_template_kwargs: {name!r} is not a plain name", param="chat_template_kwargs")
        if name in OWN_NAMES:
            raise RequestError(f"chat_template_kwargs: {name!r} is set by penstock", param="chat_template_kwargs")
    if len(values) > 64:
        raise RequestError("chat_template_kwargs: more than 64 values", param="chat_template_kwargs")
    return dict(values)


def _mark(pattern: re.Pattern[str], text: str, mark: str) -> str:
    """Put ``mark`` after the first character of each control token, also of those that overlap."""
    parts: list[str] = []
    done = 0
    at = 0
    while match := pattern.search(text, at):
        at = match.start() + 1
        parts += [text[done:at], mark]
        done = at
    return "".join([*parts, text[done:]])


def _positions(text: str, mark: str) -> tuple[str, frozenset[int]]:
    """``text`` without its marks, and where they were."""
    pieces = text.split(mark)
    breaks, at = [], 0
    for piece in pieces[:-1]:
        at += len(piece)
        breaks.append(at)
    return "".join(pieces), frozenset(breaks)


def _free_marks(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """Two private characters that no message holds."""
    used = {char for message in messages for char in message["content"] or "" if ord(char) >= MARKS.start}
    free = [chr(code) for code in MARKS if chr(code) not in used][:2]
    if len(free) < 2:
        raise RequestError("the messages use up all private characters", param="messages")
    return free[0], free[1]
