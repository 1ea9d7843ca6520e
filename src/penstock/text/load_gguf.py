"""A ``Tokenizer`` from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.errors import CheckpointError, UnsupportedError
from penstock.text.backends.gguf import (
    GgufVocabulary,
    bpe_backend,
    pre_tokenizer,
    read_vocabulary,
    score_backend,
    without_surrogates,
)  # fmt: skip
from penstock.text.facts import TokenizerFacts
from penstock.text.files import MIB
from penstock.text.load import WITHOUT
from penstock.text.tokenizer import Tokenizer
from penstock.text.tokenizer_config import TokenizerConfig

TEMPLATE = "tokenizer.chat_template"
NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
ENDS = ("eos", "eot", "eom")
CHATGLM_SPM = TokenizerFacts(prefix=("[gMASK]", "sop"), literal=frozenset({"sop", "eop"}))


def load_metadata(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """See :meth:`Tokenizer.from_gguf`."""
    model = metadata.get("tokenizer.ggml.model")
    if model is None or model in ("none", "no_vocab"):
        raise CheckpointError(f"{source}: no tokenizer (tokenizer.ggml.model is {model!r}); {WITHOUT}")
    if model not in ("llama", "gpt2"):
        raise UnsupportedError(f"{source}: tokenizer.ggml.model is {model!r}; of GGUF, 'llama' and 'gpt2' are read")
    vocabulary = read_vocabulary(metadata, source)
    config = _config(vocabulary, metadata)
    given = {"add_bos": vocabulary.add_bos, "add_eos": vocabulary.add_eos}
    if model == "gpt2":
        pre = pre_tokenizer(vocabulary)
        usual = {"add_bos": pre.add_bos}
        backend, facts = bpe_backend(vocabulary, pre), TokenizerFacts(prefix=pre.prefix)
    else:
        facts = CHATGLM_SPM if vocabulary.pre == "chatglm-spm" else TokenizerFacts()
        usual = {"add_bos": facts is not CHATGLM_SPM}
        backend = score_backend(vocabulary, facts.literal)
    return Tokenizer(backend, config, facts, **usual | {key: flag for key, flag in given.items() if flag is not None})


def _config(vocabulary: GgufVocabulary, metadata: Mapping[str, Any]) -> TokenizerConfig:
    ids = vocabulary.ids
    return TokenizerConfig(
        name=str(metadata.get("general.name") or ""),
        tokens={key: vocabulary.pieces[ids[name]] for key, name in NAMES.items() if name in ids},
        specials=frozenset(vocabulary.pieces[i] for i in vocabulary.control),
        add_bos=vocabulary.add_bos,
        add_eos=vocabulary.add_eos,
        end_ids=frozenset(ids[name] for name in ENDS if name in ids),
        templates=_templates(metadata, vocabulary.source),
    )


def _templates(metadata: Mapping[str, Any], source: str) -> dict[str, str]:
    """``tokenizer.chat_template`` is the default; others hang below it by name."""
    found: dict[str, str] = {}
    for key, text in metadata.items():
        if key != TEMPLATE and not key.startswith(TEMPLATE + "."):
            continue
        if not isinstance(text, str) or len(text) > MIB:
            raise CheckpointError(f"{source}: '{key}' is not a text of at most {MIB} characters")
        found[key.removeprefix(TEMPLATE).removeprefix(".") or "default"] = without_surrogates(text)
    return found
