"""Tokenizers from the metadata of GGUF files: a vocabulary as lists, with an algorithm's name."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import CheckpointError, UnsupportedError, nearest
from penstock.text.backends.base import Backend
from penstock.text.backends.scores import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, ScoreBackend
from penstock.text.gguf_patterns import PRE_TOKENIZERS, PreTokenizer

logger = logging.getLogger(__name__)

PREFIX = "tokenizer.ggml."
MAX_TOKENS = 1 << 24
MAX_BYTES = 256 << 20
NAMED_IDS = ("bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask")
# Converters of some models call these user-defined. A user could then write them (llama.cpp overrides the same ones).
CONTROL_WORDS = frozenset({
    "<s>", "</s>", "<bos>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<|im_start|>",
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>",
    "<start_of_turn>", "<end_of_turn>", "<|end_of_turn|>", "<｜end▁of▁sentence｜>",
})  # fmt: skip


@dataclass(frozen=True)
class GgufVocabulary:
    """The checked lists of one file. ``ids``: ``bos``, ``eos``, ``eot`` … to token id, where the file says."""

    source: str
    model: str
    pre: str
    pieces: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    ids: Mapping[str, int]
    control: frozenset[int]
    add_bos: bool | None
    add_eos: bool | None
    space_prefix: bool | None
    collapse: bool
    architecture: str


def read_vocabulary(metadata: Mapping[str, Any], source: str) -> GgufVocabulary:
    """Check what ``metadata`` says about the tokenizer; CheckpointError names the key at fault."""
    reader = _Reader(metadata, source)
    pieces = reader.texts("tokens")
    if not pieces:
        raise CheckpointError(f"{source}: '{PREFIX}tokens' is empty, so there is no tokenizer")
    kinds = reader.numbers("token_type", len(pieces), NORMAL)
    scores = reader.numbers("scores", len(pieces), 0.0)
    if not all(map(math.isfinite, scores)):
        raise CheckpointError(f"{source}: '{PREFIX}scores' holds a value that is no number")
    ids = {name: value for name in NAMED_IDS if (value := reader.token_id(name, len(pieces))) is not None}
    model = reader.text("model") or "none"
    for name, usual in (("unknown", 0), ("bos", 1), ("eos", 2)) if model == "llama" else ():
        if name not in ids and usual < len(kinds) and kinds[usual] in (UNKNOWN, CONTROL):
            ids[name] = usual  # what llama.cpp takes when the file does not say
    control = {i for i, kind in enumerate(kinds) if kind == CONTROL and pieces[i]} | set(ids.values())
    control |= {i for i, kind in enumerate(kinds) if kind == USER_DEFINED and pieces[i] in CONTROL_WORDS}
    return GgufVocabulary(
        source=source, model=model, pre=reader.text("pre"), pieces=pieces,
        kinds=tuple(map(int, kinds)), scores=tuple(map(float, scores)), merges=reader.texts("merges"), ids=ids,
        control=frozenset(control), add_bos=reader.flag("add_bos_token"), add_eos=reader.flag("add_eos_token"),
        space_prefix=reader.flag("add_space_prefix"), collapse=bool(reader.flag("remove_extra_whitespaces")),
        architecture=str(metadata.get("general.architecture", "")),
    )  # fmt: skip


class _Reader:
    """Typed access to ``tokenizer.ggml.*``."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self._metadata = metadata
        self._source = source

    def _fault(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self._source}: '{PREFIX}{key}' is not {expected}")

    def text(self, key: str) -> str:
        value = self._metadata.get(PREFIX + key, "")
        if not isinstance(value, str):
            raise self._fault(key, "a text")
        return without_surrogates(value)

    def flag(self, key: str) -> bool | None:
        value = self._metadata.get(PREFIX + key)
        if value is not None and not (isinstance(value, bool) or value in (0, 1)):
            raise self._fault(key, "true or false")
        return None if value is None else bool(value)

    def _list(self, key: str) -> Sequence[Any]:
        value = self._metadata.get(PREFIX + key, ())
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) > MAX_TOKENS:
            raise self._fault(key, f"a list of at most {MAX_TOKENS} entries")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = tuple(self._list(key))
        if bytes in set(map(type, values)):
            values = tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values)
        if not set(map(type, values)) <= {str} or sum(map(len, values)) > MAX_BYTES:
            raise self._fault(key, "a list of texts of a sensible length")
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            return tuple(map(without_surrogates, values))
        return values

    def numbers(self, key: str, count: int, default: float) -> Sequence[Any]:
        values = self._list(key) or (default,) * count
        if len(values) != count:
            raise self._fault(key, f"as long as the list of tokens ({len(values)} entries, {count} tokens)")
        if not set(map(type, values)) <= {int, float, bool}:
            raise self._fault(key, "a list of numbers")
        return values

    def token_id(self, name: str, count: int) -> int | None:
        key = f"{name}_token_id"
        value = self._metadata.get(PREFIX + key)
        if value is None:
            return None
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise self._fault(key, "a token id") from None
        if number in (-1, 0xFFFFFFFF):  # how converters write "none"
            return None
        if not 0 <= number < count:
            raise self._fault(key, f"the id of one of the {count} tokens ({number})")
        return number


def without_surrogates(text: str) -> str:
    """``text``, where bytes that are no UTF-8 (readers hand them on as lone surrogates) become U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def pre_tokenizer(vocabulary: GgufVocabulary) -> PreTokenizer:
    """How texts are cut before merging; UnsupportedError for a name that is not in the table."""
    if not vocabulary.pre:
        logger.warning(
            "%s: '%spre' is missing (an old file); cut by 'default', which may not be the model's way",
            vocabulary.source, PREFIX,
        )  # fmt: skip
    name = vocabulary.pre or "default"
    if (found := PRE_TOKENIZERS.get(name)) is None:
        raise UnsupportedError(
            f"{vocabulary.source}: pre-tokenizer {name!r} ({PREFIX}pre) is not known"
            f"{nearest(name, PRE_TOKENIZERS)}; pass the folder of the original tokenizer instead"
        )
    return found


def _pair(merge: str, number: int, source: str) -> tuple[str, str]:
    """Both halves; the first may begin with the blank that divides others."""
    at = merge.find(" ", 1)
    if at < 0 or at == len(merge) - 1:
        raise CheckpointError(f"{source}: '{PREFIX}merges' has no pair at {number}")
    return merge[:at], merge[at + 1 :]


def _reachable(pieces: Sequence[str]) -> dict[str, int]:
    table: dict[str, int] = {}
    for token_id, piece in enumerate(pieces):
        # A piece that came before, or is empty, keeps its place in the numbering but can never be found.
        table[piece if piece and piece not in table else f"[UNREACHABLE_{token_id}]"] = token_id
    return table


def bpe_backend(vocabulary: GgufVocabulary, pre: PreTokenizer) -> Backend:
    """Byte-level BPE by merges, through ``tokenizers``."""
    from penstock.text.backends import hf

    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    if not all(left and right for left, right in pairs):
        pairs = [_pair(merge, number, vocabulary.source) for number, merge in enumerate(vocabulary.merges)]
    table = dict(zip(vocabulary.pieces, range(len(vocabulary.pieces)), strict=True))
    if len(table) < len(vocabulary.pieces) or "" in table:
        table = _reachable(vocabulary.pieces)
    user = [i for i, k in enumerate(vocabulary.kinds) if k == USER_DEFINED and i not in vocabulary.control]
    return hf.build_bpe(
        table, pairs, pre.patterns, source=vocabulary.source, normalization=pre.normalization,
        whole_first=pre.whole_first, prefix_space=bool(vocabulary.space_prefix),
        control=[vocabulary.pieces[i] for i in sorted(vocabulary.control)],
        user=[vocabulary.pieces[i] for i in user if vocabulary.pieces[i]],
    )  # fmt: skip


def score_backend(vocabulary: GgufVocabulary, literal: frozenset[str]) -> Backend:
    """SentencePiece's BPE by scores; tokens in ``literal`` are never read from text."""
    bytes_given = vocabulary.kinds.count(BYTE)
    if bytes_given not in (0, 256):
        raise CheckpointError(f"{vocabulary.source}: '{PREFIX}token_type' marks {bytes_given} of 256 byte tokens")
    unk = vocabulary.ids.get("unknown")
    # Phi-3's control tokens swallow the blanks after them, which GGUF has no key for.
    strips = vocabulary.control - {vocabulary.ids.get("bos"), unk} if vocabulary.architecture == "phi3" else frozenset()
    return ScoreBackend(
        vocabulary.pieces, vocabulary.scores, vocabulary.kinds, dummy_prefix=vocabulary.space_prefix is not False,
        collapse=vocabulary.collapse, control=vocabulary.control, unk_id=unk, strip_after=frozenset(strips),
        literal=literal,
    )  # fmt: skip
