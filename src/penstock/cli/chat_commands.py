"""What a line that begins with ``/`` does in a chat."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from penstock.cli.conversation import Conversation
from penstock.cli.messages import say
from penstock.errors import ConfigError, PenstockError, RequestError, nearest
from penstock.sampling_defaults import from_hf
from penstock.text.messages import check_messages
from penstock.types import SamplingParams

NOT_SET = ("n", "best_of", "output_kind", "detokenize", "logprobs", "prompt_logprobs")
SETTABLE = tuple(f.name for f in fields(SamplingParams) if f.name not in NOT_SET)
ALSO = {"do_sample": "temperature", "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
"""Hugging Face's names, with what they set."""
SHORT = {"temp": "temperature", "repeat_penalty": "repetition_penalty", "n_predict": "max_tokens"}
"""llama.cpp's names."""
WORDS = {"exit": "/exit", "quit": "/exit", "clear": "/clear"}
"""Bare words that do what the command does, as in ms-swift."""
MAX_FILE_BYTES = 64 << 20

END = "end"
REGENERATE = "regenerate"
Effect = str | None


class Commands:
    """The commands over one conversation. ``run`` prints through ``show`` and tells the loop what to do next."""

    def __init__(self, conversation: Conversation, show: Callable[[str], None]) -> None:
        self.conversation = conversation
        self.show = show
        self.table: dict[str, Callable[[str], Effect]] = {
            "/help": lambda _: self.show(say("help")), "/?": lambda _: self.show(say("help")),
            "/system": self._system, "/set": self._set, "/show": self._show, "/clear": self._clear,
            "/regen": self._regenerate, "/retry": self._regenerate, "/stats": self._stats,
            "/save": self._save, "/load": self._load,
            "/exit": lambda _: END, "/quit": lambda _: END, "/bye": lambda _: END,
        }  # fmt: skip

    def is_command(self, line: str) -> bool:
        """``/word`` at the start of one line; a message may begin with a path, which has a second slash."""
        word = line.strip().partition(" ")[0]
        if line.strip() in WORDS:
            return True
        return word.startswith("/") and len(word) > 1 and "/" not in word[1:] and "\n" not in word

    def run(self, line: str) -> Effect:
        """Do what ``line`` says. Raises a ``PenstockError`` for a mistake in it."""
        name, _, rest = WORDS.get(line.strip(), line.strip()).partition(" ")
        command = self.table.get(name)
        if command is None:
            raise RequestError(say("unknown command", name=name, hint=nearest(name, self.table)))
        return command(rest.strip())

    def complete(self, before: str, word: str) -> list[str]:
        """What ``word`` may become after ``before``: a command, a parameter's name, or a file."""
        command = before.strip()
        if not command:
            return sorted(f"{name} " for name in self.table if word.startswith("/") and name.startswith(word))
        if command == "/set":
            return sorted(f"{name} " for name in SETTABLE if name.startswith(word.replace("-", "_")))
        if command in ("/save", "/load"):
            return _paths(word)
        return []

    def _system(self, text: str) -> Effect:
        if text:
            self.conversation.system = None if text.lower() == "none" else text
        system = self.conversation.system
        self.show(say("system is", system=system) if system else say("system none"))
        return None

    def _set(self, text: str) -> Effect:
        name, _, given = text.partition(" ")
        name = name.lstrip("-").replace("-", "_")
        name = SHORT.get(name, name)
        if not name or not given.strip():
            raise RequestError(say("set usage"))
        if name not in SETTABLE and name not in ALSO:
            raise RequestError(say("no such parameter", name=f"'{name}'", hint=nearest(name, [*SETTABLE, *ALSO])))
        talk = self.conversation
        value = _value(given.strip())
        meant = ALSO.get(name, name)
        if value == "default" or value is None:
            changes: dict[str, Any] = {meant: getattr(talk.defaults, meant) if value == "default" else None}
            talk.params = replace(talk.params, **changes)
        elif isinstance(getattr(talk.params, meant), bool) and not isinstance(value, bool):
            raise RequestError(f"{name} must be true or false, got {given.strip()!r}")
        else:
            talk.params = from_hf({name: value}, talk.params)
        name = meant
        talk.asked = talk.asked or name == "max_tokens"
        self.show(say("set", name=name, value=_shown(getattr(talk.params, name))))
        return None

    def _show(self, text: str) -> Effect:
        talk = self.conversation
        self.show(f"model: {talk.llm.model.name}")
        self._system("")
        for name in SETTABLE:
            self.show(say("set", name=name, value=_shown(getattr(talk.params, name))))
        return None

    def _clear(self, text: str) -> Effect:
        self.conversation.clear()
        self.show(say("cleared"))
        return None

    def _regenerate(self, text: str) -> Effect:
        if not self.conversation.messages:
            raise RequestError(say("nothing to repeat"))
        return REGENERATE

    def _stats(self, text: str) -> Effect:
        stats = self.conversation.stats
        if stats is None:
            raise RequestError(say("no answer yet"))
        for line in stats.lines():
            self.show(line)
        return None

    def _save(self, name: str) -> Effect:
        path, talk = self._path("/save", name), self.conversation
        usual = SamplingParams()
        settings = {n: v for n in SETTABLE if (v := getattr(talk.params, n)) != getattr(usual, n)}
        content = {"model": talk.llm.model.name, "system": talk.system, "messages": talk.messages, "sampling": settings}
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False, indent=1)
        except OSError as error:
            raise ConfigError(say("cannot write", file=name, why=error.strerror)) from None
        self.show(say("saved", count=len(talk.messages), file=name))
        return None

    def _load(self, name: str) -> Effect:
        path, talk = self._path("/load", name), self.conversation
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
            if len(raw) > MAX_FILE_BYTES:
                raise ValueError(f"more than {MAX_FILE_BYTES >> 20} MiB")
            content = json.loads(raw)
            messages, system, params = _conversation(content, talk.params)
        except OSError as error:
            raise ConfigError(say("cannot read", file=name, why=error.strerror)) from None
        except (ValueError, RecursionError, PenstockError) as error:
            raise ConfigError(say("cannot read", file=name, why=error)) from None
        talk.clear()
        talk.messages, talk.system, talk.params = messages, system, params
        self.show(say("loaded", count=len(messages), file=name))
        return None

    def _path(self, command: str, name: str) -> Path:
        if not name:
            raise RequestError(say("file usage", command=command))
        return Path(name).expanduser()


def _conversation(content: Any, params: SamplingParams) -> tuple[list[dict[str, Any]], str | None, SamplingParams]:
    """Messages, system prompt and sampling of a kept conversation; a bare list of messages will do too."""
    if isinstance(content, list):
        content = {"messages": content}
    if not isinstance(content, dict) or not isinstance(content.get("messages"), list):
        raise ValueError("not a conversation: no list of messages")
    messages = check_messages(content["messages"]) if content["messages"] else []
    system = content.get("system")
    if messages and messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
    if not isinstance(system, str | None):
        raise ValueError("the system prompt is not text")
    sampling = content.get("sampling") or {}
    if not isinstance(sampling, dict):
        raise ValueError("the sampling parameters are not an object")
    unknown = sorted(set(sampling) - set(SETTABLE))
    if unknown:
        raise ValueError(f"unknown sampling parameter '{unknown[0]}'{nearest(unknown[0], SETTABLE)}")
    if isinstance(sampling.get("logit_bias"), dict):
        sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"].items()}
    return messages, system, replace(params, **sampling)


def _paths(word: str) -> list[str]:
    """Files and folders that begin with ``word``."""
    folder, _, begin = word.rpartition("/")
    try:
        with os.scandir(Path(f"{folder}/" if folder or word.startswith("/") else ".").expanduser()) as found:
            names = [each.name + ("/" if each.is_dir() else " ") for each in found if each.name.startswith(begin)]
    except OSError:
        return []
    lead = word[: len(word) - len(begin)]
    return sorted(lead + name for name in names if begin or not name.startswith("."))


def _value(text: str) -> Any:
    """``0.3``, ``true``, ``none``, ``["a", "b"]``, else the text itself."""
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):
        return text


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
