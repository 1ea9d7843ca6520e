"""Which files make a checkpoint's tokenizer, and how they are put together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from penstock.errors import CheckpointError, ConfigError, nearest
from penstock.text import facts as known
from penstock.text.backends.base import Backend, ShiftedBackend
from penstock.text.facts import TokenizerFacts, facts_for
from penstock.text.files import read_bytes
from penstock.text.tokenizer import Tokenizer
from penstock.text.tokenizer_config import TokenizerConfig, read_tokenizer_config

MODES = ("auto", "slow", "hf", "spm", "tiktoken", "bpe")
WITHOUT = "to serve token ids without a tokenizer, pass skip_tokenizer_init=True (--skip-tokenizer-init)"


def load_folder(folder: Path, mode: str = "auto") -> Tokenizer:
    """See :meth:`Tokenizer.from_folder`."""
    if mode not in MODES:
        raise ConfigError(f"tokenizer mode {mode!r} is not one of {', '.join(MODES)}{nearest(mode, MODES)}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder, so no tokenizer; {WITHOUT}")
    json, ranks, model = folder / "tokenizer.json", _first(folder, "*.tiktoken"), _model_file(folder)
    fast = mode in ("auto", "hf") and json.is_file()
    if fast:
        return load_hf(json, read_tokenizer_config(folder))
    if mode in ("auto", "slow", "tiktoken") and ranks is not None:
        return load_ranks(ranks, read_tokenizer_config(folder))
    if mode in ("auto", "slow", "tiktoken") and (folder / "tekken.json").is_file():
        return load_tekken(folder / "tekken.json", read_tokenizer_config(folder))
    if mode in ("auto", "slow", "spm", "tiktoken") and model is not None:
        return load_model(model, read_tokenizer_config(folder))
    if mode in ("auto", "slow", "bpe") and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return load_bpe(folder, read_tokenizer_config(folder))
    if mode == "slow" and json.is_file():
        return load_hf(json, read_tokenizer_config(folder))
    wanted = "tokenizer.json, tokenizer.model, *.tiktoken, tekken.json, or vocab.json with merges.txt"
    raise CheckpointError(f"{folder}: no tokenizer ({wanted}) for mode {mode!r}; {WITHOUT}")


def _first(folder: Path, pattern: str) -> Path | None:
    return next(iter(sorted(p for p in folder.glob(pattern) if p.is_file())), None)


def _model_file(folder: Path) -> Path | None:
    for name in ("tokenizer.model", "ice_text.model"):
        if (folder / name).is_file():
            return folder / name
    return _first(folder, "tokenizer*.model*") or _first(folder, "*tokenizer*.model*")


def load_hf(path: Path, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer from ``tokenizer.json``; its post-processor says what goes around a text, if ``config`` does not."""
    from penstock.text.backends import hf

    facts = facts_for(config.tokenizer_class)
    backend = hf.load_json(path, config.added, config.specials)
    # The file knows better than the table, but for names that the configuration leaves out.
    names = dataclasses.replace(facts, prefix=(), suffix=(), literal=frozenset(), specials=())
    if not {"bos_token", "eos_token"} & set(config.tokens):
        config = dataclasses.replace(config, tokens={**_usual(backend), **config.tokens})
    return Tokenizer(backend, config, names, add_bos=config.add_bos, add_eos=config.add_eos)


def _usual(backend: Backend) -> dict[str, str | None]:
    """Begin and end tokens by their usual names, for files that come without a configuration."""
    begins = ("<|begin_of_text|>", "<s>", "<bos>")
    ends = ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>")
    found: dict[str, str | None] = {}
    for key, words in (("bos_token", begins), ("eos_token", ends)):
        if word := next((word for word in words if word in backend.specials), None):
            found[key] = word
    return found


def load_ranks(path: Path, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer from a file of tiktoken ranks; the class, the name or the size of the file tells the family."""
    from penstock.text.backends import tiktoken

    facts = facts_for(config.tokenizer_class)
    if facts.pattern is None:
        lines = read_bytes(path).count(b"\n")
        qwen = "qwen" in path.name or 151_600 <= lines <= 151_700
        facts = known.QWEN if qwen else known.CHATGLM4 if 151_300 <= lines < 151_400 else known.LLAMA3
    added = {str(entry["content"]): token_id for token_id, entry in config.added.items()}
    backend = tiktoken.load(path, added=added, specials=config.specials, facts=facts)
    return Tokenizer(backend, config, facts, add_bos=config.add_bos, add_eos=config.add_eos)


def load_tekken(path: Path, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer from Mistral's ``tekken.json``."""
    from penstock.text.backends import tekken

    add_bos = known.TEKKEN.add_bos if config.add_bos is None else config.add_bos
    return Tokenizer(tekken.load(path), config, known.TEKKEN, add_bos=add_bos, add_eos=config.add_eos)


def load_model(path: Path, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer from a ``.model`` file: tiktoken ranks or SentencePiece, as its content says."""
    from penstock.text.backends import spm, tiktoken

    if tiktoken.looks_like_ranks(read_bytes(path)):
        return load_ranks(path, config)
    facts = _model_facts(path, config)
    shift = _image_tokens(config) if facts is known.CHATGLM1 else 0
    added = {str(entry["content"]): i - shift for i, entry in config.added.items() if i >= shift}
    backend: Backend = spm.load(path, added=added, specials=config.specials, facts=facts, legacy=config.legacy)
    if shift:
        backend = ShiftedBackend(backend, shift)
    add_bos = config.add_bos if config.add_bos is not None else facts.add_bos
    return Tokenizer(backend, config, facts, add_bos=add_bos, add_eos=config.add_eos)


def _image_tokens(config: TokenizerConfig) -> int:
    return known.CHATGLM1_IMAGE_TOKENS if config.image_tokens is None else config.image_tokens


def _model_facts(path: Path, config: TokenizerConfig) -> TokenizerFacts:
    facts = facts_for(config.tokenizer_class)
    if path.name == "ice_text.model":
        return known.CHATGLM1
    if facts is known.CHATGLM2 and "chatglm2" in config.name.lower():
        # ChatGLM3's role tokens came after ChatGLM2, whose files are otherwise the same.
        return dataclasses.replace(facts, specials=known.CHATGLM2_SPECIALS)
    return facts_for("LlamaTokenizer") if facts == TokenizerFacts() else facts


def load_bpe(folder: Path, config: TokenizerConfig) -> Tokenizer:
    """A byte-level tokenizer from ``vocab.json`` and ``merges.txt`` (GPT-2, OPT, Qwen2 …)."""
    from penstock.text.backends import hf

    facts = facts_for(config.tokenizer_class or "GPT2Tokenizer")
    own = {word for word in (facts.bos, facts.eos, facts.pad) if word}
    backend = hf.load_vocab_merges(
        folder / "vocab.json", folder / "merges.txt", facts, config.added, config.specials | own,
        prefix_space=bool(config.add_prefix_space),
    )  # fmt: skip
    add_bos = config.add_bos if config.add_bos is not None else facts.add_bos
    return Tokenizer(backend, config, facts, add_bos=add_bos, add_eos=config.add_eos)
