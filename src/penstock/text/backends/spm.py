"""SentencePiece models (``tokenizer.model``) through the ``sentencepiece`` library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import CheckpointError, missing
from penstock.text.backends.base import SpecialSplitter, encode_split
from penstock.text.facts import TokenizerFacts
from penstock.text.files import read_bytes

# A ModelProto may be concatenated with another, which overrides it: normalizer_spec { add_dummy_prefix: false }.
WITHOUT_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "▁"


class SpmBackend:
    """A SentencePiece model with the control tokens that lie in it, and those added by the configuration.

    A piece of text after a control token gets a dummy prefix of its own, as the original code of Llama-2, Mistral and
    ChatGLM does (``legacy``); with ``legacy=False`` only the start of the whole text does. Unless the files say, later
    Mistral vocabularies, whose templates write that space themselves, go the second way.
    """

    def __init__(
        self, proto: bytes, path: Path, *, added: Mapping[str, int], specials: frozenset[str], facts: TokenizerFacts,
        legacy: bool | None = None,
    ) -> None:  # fmt: skip
        self._model = load_processor(proto, path)
        self._bare = load_processor(proto + WITHOUT_DUMMY_PREFIX, path)
        self._count = int(self._model.get_piece_size())
        self._prefixed = self._model.normalize("a").startswith((SPACE, " "))
        self._added = dict(added)
        self._added_text = {token_id: text for text, token_id in self._added.items()}
        control = {
            self._model.id_to_piece(i): i
            for i in range(self._count)
            if (self._model.is_control(i) or self._model.is_unknown(i)) and i not in self._added_text
        }
        self._legacy = "[INST]" not in control if legacy is None else legacy
        reserved = {self._model.id_to_piece(i): i for i in facts.reserved if i < self._count}
        known = {word: i for word in {*specials, *facts.inside} if (i := self.token_to_id(word)) is not None}
        self.specials: Mapping[str, int] = {**control, **reserved, **known}
        readable = {w: i for w, i in {**self._added, **self.specials}.items() if w not in facts.literal}
        self._all = SpecialSplitter(readable)
        self._ordinary_added = SpecialSplitter({w: i for w, i in self._added.items() if w not in self.specials})
        # Symbols which the model itself reads from text, though they control the conversation (Baichuan's).
        self._symbols = SpecialSplitter({w: i for w, i in {**reserved, **known}.items() if self._reads(w, i)})
        self.size = max([self._count - 1, *self._added_text]) + 1
        self.lead = 1 if self._prefixed else 0
        self.replace_each = True
        self.prefix: tuple[int, ...] = ()
        self.suffix: tuple[int, ...] = ()
        self._transform: Rewrite | None
        self._restore: Rewrite | None
        self._transform, self._restore = TRANSFORMS.get(facts.transform or "", (None, None))

    def _reads(self, word: str, token_id: int) -> bool:
        return token_id < self._count and token_id in self._bare.encode(word)

    def encode(self, text: str, *, parse_special: bool, first: bool = True) -> list[int]:
        splitter = self._all if parse_special else self._ordinary_added
        return encode_split(text, splitter, self._plain, first)

    def _plain(self, text: str, first: bool) -> list[int]:
        if self._transform is not None:
            text = self._transform(text)
        ids: list[int] = []
        at = 0
        for piece, token_id in self._symbols.split(text):
            # A control symbol in ordinary text is cut in two, so that the model cannot see it.
            for part in (piece,) if token_id is None else (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
                model = self._model if at == 0 and (first or self._legacy) else self._bare
                ids.extend(model.encode(part))
                at += 1
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if (text := self._added_text.get(token_id)) is not None:
            return text.encode("utf-8", "replace")
        if not 0 <= token_id < self._count:
            return b""
        piece: str = self._model.id_to_piece(token_id)
        if self._model.is_byte(token_id) and (match := BYTE_PIECE.fullmatch(piece)):
            return bytes([int(match.group(1), 16)])
        if self._restore is not None:
            piece = self._restore(piece)
        return piece.replace(SPACE, " ").encode("utf-8", "replace")

    def token(self, token_id: int) -> str | None:
        if (text := self._added_text.get(token_id)) is not None:
            return text
        return str(self._model.id_to_piece(token_id)) if 0 <= token_id < self._count else None

    def token_to_id(self, token: str) -> int | None:
        if (token_id := self._added.get(token)) is not None:
            return token_id
        found = int(self._model.piece_to_id(token))
        return found if self._model.id_to_piece(found) == token and found not in self._added_text else None


def _chatglm1_transform(text: str) -> str:
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return re.sub(r" {2,80}", lambda match: f"<|blank_{len(match.group())}|>", text)


def _chatglm1_restore(piece: str) -> str:
    if match := re.fullmatch(r"<\|blank_(\d{1,2})\|>", piece):
        return " " * int(match.group(1))
    return {"<n>": "\n", "<|tab|>": "\t"}.get(piece, piece)


Rewrite = Callable[[str], str]
TRANSFORMS: dict[str, tuple[Rewrite, Rewrite]] = {"chatglm1": (_chatglm1_transform, _chatglm1_restore)}


def load_processor(proto: bytes, path: Path) -> Any:
    """A ``SentencePieceProcessor`` of a serialised model; a fault names ``path``."""
    try:
        import sentencepiece
    except ImportError as error:
        raise missing("sentencepiece") from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(proto)
        # The library checks no piece; one that is no UTF-8 would fail in the middle of a request.
        processor.id_to_piece(list(range(processor.get_piece_size())))
        if not 0 <= processor.unk_id() < processor.get_piece_size():
            raise ValueError("no piece for what is unknown")
    except (RuntimeError, ValueError, OSError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model ({' '.join(str(error).split())[:200]})") from error
    return processor


def load(
    path: Path, *, added: Mapping[str, int], specials: frozenset[str], facts: TokenizerFacts, legacy: bool | None
) -> SpmBackend:
    """The model in ``path`` with ``added`` tokens; ``specials``: texts that the configuration calls special."""
    data = read_bytes(path)
    count = int(load_processor(data, path).get_piece_size())
    own = {word: count + i for i, word in enumerate(facts.specials)}
    return SpmBackend(
        data, path, added=own | dict(added), specials=specials | frozenset(own), facts=facts, legacy=legacy
    )
