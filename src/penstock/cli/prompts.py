"""Where the prompts of a command come from, and what they become."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from penstock.frontend import Prompt
    from penstock.llm import LLM

MAX_PROMPT_BYTES = 64 << 20


def read_prompts(args: argparse.Namespace) -> list[str]:
    """Every prompt named: arguments in order (``-`` is stdin), ``--prompt``, then files; stdin when there is none."""
    named = [*getattr(args, "prompts", []), *getattr(args, "prompt", [])]
    texts = [_stdin() if name == "-" else name for name in named]
    texts += [_stdin() if name == "-" else read_file(name) for name in getattr(args, "prompt_file", [])]
    if texts:
        return texts
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError('no prompt: give one, as in `penstock generate "Once upon a time"`, or - to read stdin')
    return [_stdin()]


def encode(llm: LLM, text: str, *, chat: bool = False, system: str | None = None, bounded: bool = True) -> Prompt:
    """Token ids of a prompt: plain, as one user message of a chat, or as written where there is no tokenizer."""
    if chat or system is not None:
        from penstock.chat import render

        messages = [{"role": "system", "content": system}] if system else []
        return render(llm.model, [*messages, {"role": "user", "content": text}])
    if llm.model.tokenizer is None:
        return llm.frontend.encode(token_ids(text))
    return llm.frontend.encode(text, bounded=bounded)


def shortened(prompt: Prompt, most: int) -> Prompt:
    """``prompt`` with its last ``most`` tokens only. Raises ``ConfigError`` if that is none."""
    if most < 1:
        raise ConfigError(f"--src-length must be at least 1, got {most}")
    return replace(prompt, token_ids=prompt.token_ids[-most:])


def token_ids(text: str) -> list[int]:
    """``1, 2, 3`` or ``[1 2 3]`` as numbers."""
    words = re.split(r"[\s,]+", text.strip().strip("[]").strip())
    if not all(re.fullmatch(r"\d{1,9}", word) for word in words):
        raise RequestError(f"without a tokenizer a prompt is token ids like '1 2 3', got '{text[:60]}'", "prompt")
    return [int(word) for word in words]


def _stdin() -> str:
    try:
        return _trim(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1), "stdin")
    except OSError as error:
        raise ConfigError(f"cannot read stdin: {error.strerror}") from None


def read_file(name: str, what: str = "the prompt file") -> str:
    """The UTF-8 text of a file that the user named. Raises ``ConfigError``."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            return _trim(file.read(MAX_PROMPT_BYTES + 1), name)
    except OSError as error:
        raise ConfigError(f"cannot read {what} {name}: {error.strerror}") from None


def unescaped(text: str) -> str:
    """``\\n``, ``\\t``, ``\\r``, ``\\\\`` and quotes, as llama.cpp reads them; other backslashes stay."""
    known = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
    return re.sub(r"\\([ntr\\'\"])", lambda found: known[found[1]], text)


def _trim(content: bytes, name: str) -> str:
    """Text without the line break that ends every file."""
    if len(content) > MAX_PROMPT_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_PROMPT_BYTES >> 20} MiB, too large for a prompt")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text (byte {error.start}): convert it with iconv") from None
    return text.removesuffix("\n").removesuffix("\r")
