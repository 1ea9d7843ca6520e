"""``tekken.json`` (Mistral from Nemo on): ranks behind a block of control tokens.

Source: mistral-common, ``tokens/tokenizers/tekken.py`` (Apache-2.0): ids below ``default_num_special_tokens`` are
control tokens, a token's id is its rank plus that number, and entries past ``default_vocab_size`` are not used.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.errors import CheckpointError
from penstock.text.backends.tiktoken import TiktokenBackend, check_ranks
from penstock.text.facts import TEKKEN_PATTERN, TEKKEN_SPECIALS
from penstock.text.files import read_json

MAX_SPECIALS = 1 << 16
MAX_PATTERN = 4096


def load(path: Path) -> TiktokenBackend:
    """The tokenizer in ``path``."""
    spec = read_json(path)
    config = spec.get("config")
    if not isinstance(config, Mapping) or not isinstance(spec.get("vocab"), list):
        raise CheckpointError(f"{path}: not a tekken file: 'config' or 'vocab' is missing")
    count = _number(config, "default_num_special_tokens", MAX_SPECIALS, path)
    size = _number(config, "default_vocab_size", 1 << 24, path)
    pattern = config.get("pattern", TEKKEN_PATTERN)
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        raise CheckpointError(f"{path}: 'pattern' is not a text of at most {MAX_PATTERN} characters")
    ranks = _ranks(spec["vocab"][: max(0, size - count)], count, path)
    # Version 3 has no system tokens yet, whatever names their numbers got later.
    usual = TEKKEN_SPECIALS[:17] if config.get("version") in ("v1", "v2", "v3") else TEKKEN_SPECIALS
    specials = _specials(spec.get("special_tokens"), usual, count, path)
    try:
        return TiktokenBackend(ranks, pattern=pattern, normalization=None, added={}, specials=specials)
    except ImportError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: 'pattern' cannot be used ({str(error)[:120]})") from error


def _number(config: Mapping[str, Any], key: str, most: int, path: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise CheckpointError(f"{path}: '{key}' is {value!r}, expected a number from 0 to {most}")
    return value


def _ranks(entries: Sequence[Any], first: int, path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, entry in enumerate(entries):
        try:
            ranks[binascii.a2b_base64(entry["token_bytes"])] = first + int(entry["rank"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: entry {number} of 'vocab' has no rank and bytes") from error
    check_ranks(ranks, path)
    return ranks


def _specials(entries: Any, usual: Sequence[str], count: int, path: Path) -> dict[str, int]:
    """Control tokens by text; numbers without one are named as mistral-common names them."""
    if entries is None:
        entries = [{"rank": i, "token_str": word} for i, word in enumerate(usual[:count])]
    names = {number: f"<SPECIAL_{number}>" for number in range(count)}
    for entry in entries if isinstance(entries, list) else (None,):
        number = entry.get("rank") if isinstance(entry, Mapping) else None
        word = entry.get("token_str") if isinstance(entry, Mapping) else None
        if number not in names or not isinstance(word, str) or not word:
            raise CheckpointError(f"{path}: 'special_tokens' has the entry {str(entry)[:80]}, which is no token")
        names[number] = word
    if len(set(names.values())) != count:
        raise CheckpointError(f"{path}: 'special_tokens' names a token twice")
    return {word: number for number, word in names.items()}
