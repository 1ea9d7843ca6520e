"""The tokenizer of a checkpoint: one face for every vocabulary format.

Files are read and checked here and in ``backends``; no code of a checkpoint is ever run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.errors import RequestError
from penstock.text.backends.base import Backend, SpecialSplitter
from penstock.text.detokenizer import Detokenizer
from penstock.text.facts import TokenizerFacts
from penstock.text.tokenizer_config import TokenizerConfig


class Tokenizer:
    """Text to ids and back. Immutable after construction and safe to share between threads.

    ``bos_id``, ``eos_id``, ``pad_id``: ids or ``None``. ``eos_ids``: the tokenizer's own end tokens (see
    :func:`penstock.text.special.stop_ids` for all that end an answer). ``special_ids``: control tokens, left out by
    decoding. ``prefix_ids``, ``suffix_ids``: what ``add_special_tokens`` puts around a text. ``vocab_size``: one more
    than the highest id that has a token; a model's embedding may have more rows.
    """

    def __init__(
        self,
        backend: Backend,
        config: TokenizerConfig | None = None,
        facts: TokenizerFacts | None = None,
        *,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
    ) -> None:
        self.config = config or TokenizerConfig()
        self.facts = facts or TokenizerFacts()
        self._backend = backend
        self.lead = backend.lead
        self.replace_each = backend.replace_each
        self.vocab_size = backend.size
        self.special_tokens: dict[str, str] = self._special_tokens()
        self.bos_id = self._named_id("bos_token")
        self.eos_id = self._named_id("eos_token")
        self.pad_id = self._named_id("pad_token")
        self.unk_id = self._named_id("unk_token")
        self.eos_ids = self.config.end_ids | (frozenset() if self.eos_id is None else {self.eos_id})
        named = (self.bos_id, self.eos_id, self.pad_id, self.unk_id)
        self.special_ids = frozenset(backend.specials.values()) | {i for i in named if i is not None}
        self.prefix_ids, self.suffix_ids = self._around(add_bos, add_eos)
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_folder(cls, path: str | Path, *, mode: str = "auto") -> Tokenizer:
        """The tokenizer of the checkpoint in folder ``path``.

        ``mode``: ``auto`` (``tokenizer.json`` first), ``slow`` (the original vocabulary file first), or one format
        only: ``hf``, ``spm``, ``tiktoken``, ``bpe``.

        Raises CheckpointError for a missing or damaged file, ConfigError for an unknown ``mode``.
        """
        from penstock.text.load import load_folder

        return load_folder(Path(path), mode)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], *, source: str = "GGUF metadata") -> Tokenizer:
        """The tokenizer that a GGUF file's ``metadata`` (key to value) holds; ``source`` names the file in errors.

        Raises CheckpointError for a damaged list or id, UnsupportedError for an algorithm or a pre-tokenizer that
        penstock does not know.
        """
        from penstock.text.load_gguf import load_metadata

        return load_metadata(metadata, source)

    def _special_tokens(self) -> dict[str, str]:
        """``bos_token`` … by text, as templates see them: the configuration first, then facts of the class."""
        facts, config = self.facts, self.config.tokens
        usual = {"bos_token": facts.bos, "eos_token": facts.eos, "unk_token": facts.unk, "pad_token": facts.pad}
        found: dict[str, str] = {}
        for key, own in usual.items():
            text = config.get(key, own)
            if text is not None and self._backend.token_to_id(text) is not None:
                found[key] = text
        return found

    def _named_id(self, key: str) -> int | None:
        text = self.special_tokens.get(key)
        return None if text is None else self._backend.token_to_id(text)

    def _around(self, add_bos: bool | None, add_eos: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prefix, suffix = self._backend.prefix, self._backend.suffix
        if self.facts.prefix:
            prefix = tuple(i for t in self.facts.prefix if (i := self._backend.token_to_id(t)) is not None)
        if self.facts.suffix:
            suffix = tuple(i for t in self.facts.suffix if (i := self._backend.token_to_id(t)) is not None)
        if self.bos_id is not None and add_bos is not None and add_bos != (self.bos_id in prefix):
            prefix = (self.bos_id, *prefix) if add_bos else tuple(i for i in prefix if i != self.bos_id)
        if self.eos_id is not None and add_eos is not None and add_eos != (self.eos_id in suffix):
            suffix = (*suffix, self.eos_id) if add_eos else tuple(i for i in suffix if i != self.eos_id)
        return prefix, suffix

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's template for plain chats, or ``None``."""
        templates = self.chat_templates
        return templates.get("default") or (next(iter(templates.values())) if len(templates) == 1 else None)

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """All templates of the checkpoint by name (``default``, ``tool_use`` …)."""
        return self.config.templates

    def encode(self, text: str, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Ids of ``text``; ``parse_special=False`` reads control tokens in it as ordinary characters.

        Raises RequestError when ``text`` holds a lone surrogate.
        """
        _check(text)
        ids = self._backend.encode(text, parse_special=parse_special)
        return [*self.prefix_ids, *ids, *self.suffix_ids] if add_special_tokens else ids

    def encode_prompt(
        self, text: str, add_special_tokens: bool = True, breaks: Iterable[int] = frozenset()
    ) -> list[int]:
        """Ids of a finished prompt, such as a rendered template. What the text begins with is not put in twice.

        ``breaks``: positions in ``text`` across which no control token may be read (see ``templates.Rendered``).
        """
        _check(text)
        prefix, suffix = (self.prefix_ids, self.suffix_ids) if add_special_tokens else ((), ())
        lead = "".join(self.token_text(token_id) for token_id in self.prefix_ids)
        begins = bool(lead) and text.startswith(lead) and not any(0 < b < len(lead) for b in breaks)
        guarded = frozenset(breaks)
        ids = self._encode_guarded(text, guarded)
        if begins and tuple(ids[: len(self.prefix_ids)]) != self.prefix_ids:
            # The prefix holds a token that is never read from text (ChatGLM's "sop").
            shifted = frozenset(b - len(lead) for b in guarded)
            ids = [*self.prefix_ids, *self._encode_guarded(text[len(lead) :], shifted, first=False)]
        if begins or (self.bos_id is not None and ids[:1] == [self.bos_id]):
            prefix = ()
        if suffix and tuple(ids[-len(suffix) :]) == suffix:
            suffix = ()
        return [*prefix, *ids, *suffix]

    def _encode_guarded(self, text: str, breaks: frozenset[int], first: bool = True) -> list[int]:
        if not breaks:
            return self._backend.encode(text, parse_special=True, first=first)
        ids: list[int] = []
        for piece, token_id in self._splitter.split(text, breaks):
            if token_id is None:
                ids.extend(self._backend.encode(piece, parse_special=False, first=first))
            else:
                ids.append(token_id)
            first = False
        return ids

    @cached_property
    def _splitter(self) -> SpecialSplitter:
        literal = self.facts.literal
        return SpecialSplitter({w: i for w, i in self._backend.specials.items() if w not in literal})

    @property
    def control_texts(self) -> Mapping[str, int]:
        """Control tokens by text, as they are read from a prompt."""
        return {w: i for w, i in self._backend.specials.items() if w not in self.facts.literal}

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``; an id without a token adds nothing, invalid UTF-8 becomes U+FFFD.

        Spaces before punctuation stay as the model wrote them, whatever ``clean_up_tokenization_spaces`` says:
        removing them damages code, and a stream could not do it.
        """
        detokenizer = Detokenizer(self, skip_special_tokens)
        return detokenizer.push(ids) + detokenizer.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text (a control token: its name); empty for an id without a token."""
        data = self._bytes.get(token_id)
        if data is None:
            data = self._backend.token_bytes(token_id) if 0 <= token_id < self.vocab_size else b""
            self._bytes[token_id] = data
        return data

    def token_text(self, token_id: int) -> str:
        """The token's bytes as text, with U+FFFD for what is no whole character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it (``▁the``, ``Ġthe``), or ``None``."""
        return self._backend.token(token_id) if 0 <= token_id < self.vocab_size else None

    def token_to_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, control tokens included, or ``None``."""
        return self._backend.token_to_id(token)

    @cached_property
    def longest_token(self) -> int:
        """Characters in the longest token: a text has at least ``len(text) / longest_token`` ids."""
        return max(1, max(len(self.token_text(i)) for i in range(self.vocab_size)))


def _check(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise RequestError(f"the text is no valid Unicode: lone surrogate {code} at {error.start}") from None
