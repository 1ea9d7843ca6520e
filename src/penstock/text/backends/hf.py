"""``tokenizer.json``, and ``vocab.json`` + ``merges.txt``, through Hugging Face's ``tokenizers``."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from penstock.errors import CheckpointError, UnsupportedError, missing
from penstock.text.bytelevel import piece_to_bytes
from penstock.text.facts import GPT2_PATTERN, TokenizerFacts
from penstock.text.files import read_bytes, read_json, read_text
from penstock.text.pretokenizing import guard

T = TypeVar("T")
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise missing("tokenizers") from error
    return tokenizers


class HfBackend:
    """A ``tokenizers.Tokenizer``. Decoding is by bytes, so that it can stream; see :class:`_PieceDecoder`."""

    def __init__(self, tokenizer: Any, decoder: _PieceDecoder, extra_specials: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        self._decoder = decoder
        # The library keeps "read control tokens or not" as a state of the tokenizer, so a call must not overlap.
        self._lock = threading.Lock()
        added = tokenizer.get_added_tokens_decoder()
        self._added: dict[int, str] = {token_id: token.content for token_id, token in added.items()}
        self.specials: Mapping[str, int] = {t.content: i for i, t in added.items() if t.special} | dict(extra_specials)
        self.size = max([tokenizer.get_vocab_size(with_added_tokens=True) - 1, *self._added, -1]) + 1
        self.lead = decoder.lead
        self.replace_each = decoder.replace_each
        self.prefix, self.suffix = self._around()

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return tuple(full[:start]), tuple(full[start + len(plain) :])
        return (), ()

    def encode(self, text: str, *, parse_special: bool, first: bool = True) -> list[int]:
        with self._lock:
            self._tokenizer.encode_special_tokens = not parse_special
            ids: list[int] = guard(lambda part: self._tokenizer.encode(part, add_special_tokens=False), text).ids
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        if (added := self._added.get(token_id)) is not None:
            return added.encode("utf-8", "replace")
        piece = self._tokenizer.id_to_token(token_id)
        return b"" if piece is None else self._decoder(str(piece))

    def token(self, token_id: int) -> str | None:
        piece: str | None = self._tokenizer.id_to_token(token_id)
        return piece

    def token_to_id(self, token: str) -> int | None:
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id


class _PieceDecoder:
    """The ``decoder`` of a ``tokenizer.json`` as a function from one piece to its bytes.

    Decoders of language models work token by token, but for dropping a leading space (``lead``) of the whole text.
    """

    def __init__(self, spec: Mapping[str, Any] | None, path: Path) -> None:
        self.lead = 0
        self.replace_each = False
        self._steps: list[Callable[[str], str | bytes]] = []
        if spec is None:
            self._steps.append(lambda piece: " " + piece)
            self.lead = 1
            return
        for step in spec.get("decoders", [spec]) if spec.get("type") == "Sequence" else [spec]:
            self._add(step, path)

    def _add(self, step: Mapping[str, Any], path: Path) -> None:
        kind = step.get("type")
        if kind == "ByteLevel":
            self._steps.append(piece_to_bytes)
        elif kind == "ByteFallback":
            self.replace_each = True
            self._steps.append(_byte_fallback)
        elif kind == "Metaspace":
            mark = str(step.get("replacement", "▁"))
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            self.lead = 0 if scheme == "never" else 1
            self._steps.append(lambda piece: piece.replace(mark, " "))
        elif kind == "Replace" and isinstance(step.get("pattern"), dict) and "String" in step["pattern"]:
            old, new = str(step["pattern"]["String"]), str(step.get("content", ""))
            self._steps.append(lambda piece: piece.replace(old, new))
        elif kind == "Strip" and step.get("content") == " " and not step.get("stop"):
            self.lead = int(step.get("start", 0))
        elif kind == "WordPiece":
            mark = str(step.get("prefix", "##"))
            self.lead = 1
            self._steps.append(lambda piece: piece[len(mark) :] if piece.startswith(mark) else " " + piece)
        elif kind != "Fuse":
            raise UnsupportedError(f"{path}: decoder {kind!r} is not known to penstock")

    def __call__(self, piece: str) -> bytes:
        for step in self._steps:
            value = step(piece)
            if isinstance(value, bytes):
                return value
            piece = value
        return piece.encode("utf-8", "replace")


def _byte_fallback(piece: str) -> str | bytes:
    match = BYTE_PIECE.fullmatch(piece)
    return bytes([int(match.group(1), 16)]) if match else piece


def load_json(path: Path, added: Mapping[int, Mapping[str, Any]], named: frozenset[str]) -> HfBackend:
    """The tokenizer in ``path``. ``added``: the configuration's added tokens by id; ``named``: its control tokens."""
    data = read_bytes(path)
    tokenizer = _guarded(lambda: _library().Tokenizer.from_buffer(data), path)
    # The decoder's state is its JSON: much quicker than parsing the whole file here once more.
    spec = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder is not None else None
    decoder = _PieceDecoder(spec, path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _add_tokens(tokenizer, added, named)
    return _guarded(lambda: HfBackend(tokenizer, decoder, _named(tokenizer, named)), path)


def load_vocab_merges(
    vocab: Path, merges: Path, facts: TokenizerFacts, added: Mapping[int, Mapping[str, Any]], named: frozenset[str],
    *, prefix_space: bool,
) -> HfBackend:  # fmt: skip
    """Byte-level BPE from its two files, cut by the pattern of ``facts`` (default GPT-2's)."""
    library = _library()
    table = read_json(vocab)
    if not all(isinstance(token_id, int) and 0 <= token_id < 1 << 24 for token_id in table.values()):
        raise CheckpointError(f"{vocab}: a token's id is not a number from 0 to 2^24")
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(merges).splitlines(), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise CheckpointError(f"{merges}: line {number} is not a pair of tokens")
        pairs.append((pair[0], pair[1]))

    def build() -> Any:
        tokenizer = library.Tokenizer(library.models.BPE(vocab=table, merges=pairs))
        if facts.normalization == "NFC":
            tokenizer.normalizer = library.normalizers.NFC()
        split = library.pre_tokenizers.Split(library.Regex(facts.pattern or GPT2_PATTERN), "isolated")
        level = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
        plain = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
        own = facts.pattern not in (None, GPT2_PATTERN)
        tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([split, level]) if own else plain
        tokenizer.decoder = library.decoders.ByteLevel()
        return tokenizer

    tokenizer = _guarded(build, merges)
    _add_tokens(tokenizer, added, named)
    decoder = _PieceDecoder({"type": "ByteLevel"}, vocab)
    return _guarded(lambda: HfBackend(tokenizer, decoder, _named(tokenizer, named)), vocab)


def build_bpe(
    table: Mapping[str, int], merges: Sequence[tuple[str, str]], patterns: Sequence[str], *, source: str,
    normalization: str | None, whole_first: bool, prefix_space: bool, control: Sequence[str], user: Sequence[str],
) -> HfBackend:  # fmt: skip
    """Byte-level BPE whose texts are cut by each of ``patterns`` in turn.

    ``whole_first``: a piece that is a token itself is not merged. ``control``, ``user``: tokens read from the text
    before it is cut; only the former are control tokens.
    """
    library = _library()

    def build() -> HfBackend:
        model = library.models.BPE(vocab=dict(table), merges=list(merges), ignore_merges=whole_first)
        tokenizer = library.Tokenizer(model)
        if normalization == "NFC":
            tokenizer.normalizer = library.normalizers.NFC()
        cuts = [library.pre_tokenizers.Split(library.Regex(pattern), "isolated") for pattern in patterns]
        level = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
        tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([*cuts, level])
        tokenizer.decoder = library.decoders.ByteLevel()
        tokenizer.add_special_tokens([library.AddedToken(word, normalized=False) for word in control if word])
        tokenizer.add_tokens([library.AddedToken(word, normalized=False) for word in user])
        return HfBackend(tokenizer, _PieceDecoder({"type": "ByteLevel"}, Path(source)), {})

    return _guarded(build, Path(source))


def _add_tokens(tokenizer: Any, added: Mapping[int, Mapping[str, Any]], named: frozenset[str]) -> None:
    """Put in tokens that only the configuration names, as long as they get the ids that it gives them."""
    library = _library()
    for token_id, entry in sorted(added.items()):
        content = entry["content"]
        known = tokenizer.token_to_id(content)
        if known == token_id or (known is None and tokenizer.get_vocab_size(with_added_tokens=True) == token_id):
            flags = {k: bool(entry[k]) for k in ("lstrip", "rstrip", "single_word", "normalized") if k in entry}
            token = library.AddedToken(content, special=bool(entry.get("special")) or content in named, **flags)
            current = tokenizer.get_added_tokens_decoder().get(token_id)
            if current is None:
                (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    wanted = [word for word in sorted(named - present) if word and tokenizer.token_to_id(word) is not None]
    if wanted:
        tokenizer.add_special_tokens(wanted)


def _named(tokenizer: Any, named: frozenset[str]) -> dict[str, int]:
    ids = {word: tokenizer.token_to_id(word) for word in named}
    return {word: token_id for word, token_id in ids.items() if token_id is not None}


def _guarded(build: Callable[[], T], path: Path) -> T:
    """Run ``build``; whatever the library throws (its panics are no ``Exception``) names the file."""
    try:
        return build()
    except (KeyboardInterrupt, SystemExit, CheckpointError, MemoryError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not a tokenizer that can be loaded ({reason})") from error
