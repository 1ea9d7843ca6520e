"""The tokenizers that tests of this room run over: real ones beside the repository, and tiny ones made here."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from penstock.checkpoints.gguf import GgufFile
from penstock.text.tokenizer import Tokenizer
from tests.helpers import shared

REAL: dict[str, tuple[str, str]] = {
    "gpt2": ("tokenizers/gpt2", "hf"),
    "gpt2-bpe": ("tokenizers/gpt2", "bpe"),
    "llama2": ("tokenizers/llama2", "auto"),
    "llama3": ("tokenizers/llama3/hf", "auto"),
    "qwen2": ("tokenizers/qwen/qwen2-hf", "auto"),
    "qwen": ("tokenizers/qwen", "auto"),
    "stories": ("stories260K-llama/hf", "auto"),
    "stories-spm": ("stories260K-llama/hf", "slow"),
    "chatglm2": ("tokenizers/chatglm2", "auto"),
    "baichuan": ("tokenizers/baichuan", "auto"),
    "mistral": ("tokenizers/mistral", "auto"),
    "gguf-llama2": ("ggml-vocab/ggml-vocab-llama-spm.gguf", "gguf"),
    "gguf-phi3": ("ggml-vocab/ggml-vocab-phi-3.gguf", "gguf"),
    "gguf-gpt2": ("ggml-vocab/ggml-vocab-gpt-2.gguf", "gguf"),
}
BYTE_LEVEL = ("gpt2", "gpt2-bpe", "llama3", "qwen2", "qwen")
SENTENCEPIECE = ("llama2", "stories", "stories-spm", "chatglm2", "baichuan", "mistral")


@cache
def _load(folder: Path, mode: str) -> Tokenizer:
    if mode == "gguf":
        return Tokenizer.from_gguf(GgufFile(folder).metadata, source=folder.name)
    return Tokenizer.from_folder(folder, mode=mode)


def real(name: str) -> Tokenizer:
    """One of ``REAL``, loaded once; skips the test when the reference data is absent."""
    folder, mode = REAL[name]
    return _load(shared("assets", *folder.split("/")), mode)


def folder_of(tmp_path: Path, files: Iterable[Path], config: dict[str, Any] | None = None) -> Path:
    """A checkpoint folder with copies of ``files`` and a ``tokenizer_config.json``."""
    for file in files:
        shutil.copyfile(file, tmp_path / file.name)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


TEXTS = ["the quick brown fox", "hello world, how are you?", "你好，世界", "a b c d e f g", "[INST] <s> </s>"] * 4


def tiny_bpe(specials: Iterable[str] = ("<|end|>",)) -> Any:
    """A byte-level tokenizer of the ``tokenizers`` library, trained on a few lines."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


@cache
def tiny_spm(user_symbols: tuple[str, ...] = (), control: tuple[str, ...] = ()) -> bytes:
    """A serialised SentencePiece BPE model with byte fallback."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=330 + len(user_symbols) + len(control),
        model_type="bpe", byte_fallback=True, user_defined_symbols=list(user_symbols), control_symbols=list(control),
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return model.getvalue()
