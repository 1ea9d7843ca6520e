"""Vocabularies of GGUF files in penstock and in llama.cpp itself: every pre-tokenizer by its name, and whole files."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from penstock.checkpoints.gguf import GgufFile
from penstock.text.gguf_patterns import PRE_TOKENIZERS
from penstock.text.tokenizer import Tokenizer
from tests.checkpoints.gguf_files import ARRAY, I32, write
from tests.helpers import shared
from tests.peers.client import LlamaCpp
from tests.text.test_gguf import GGML, metadata_of_json
from tests.text.test_vectors import CORPUS, lines_of, vectors

WORDS = [
    "3.14159, 1234567 and 12:30", "I'M it's WE'LL they've", "naïve café Ǆemal ΣΊΣΥΦΟΣ", "x=f(y)+[1,2];// {a}<b>",
    "汉字和かなカナ한국어，。！", "tab\tand\r\nlines\n\n\n  end   ", "😀👩‍👩‍👧 \u00a0\u2009 \u200b",
    "e\u0301 \u0e01\u0e34 \u0915\u093f",
    "CamelCaseHTTPServer2Go", "١٢٣ ४५६ ½ Ⅷ", "'s 'T ’re", "a  b   c\n d\n\n  e",
]  # fmt: skip
MERGES = 3000


def texts(corpus: Sequence[str]) -> list[str]:
    found = [text for text, _ in vectors("gpt-2")] + WORDS
    for name in corpus:
        found += [line for line in lines_of(name, 60) if line.strip()]
    return found


def compare(llama_cpp: LlamaCpp, path: Path, corpus: Sequence[str]) -> None:
    with closing(GgufFile(path)) as file:
        tokenizer, asked, begun = Tokenizer.from_gguf(file.metadata), texts(corpus), WORDS
        form = PRE_TOKENIZERS.get(file.metadata.get(GGML + "pre", ""))
    if form is not None and form.normalization == "NFC":  # llama.cpp does not compose what Qwen's tokenizer does
        asked, begun = ([unicodedata.normalize("NFC", text) for text in some] for some in (asked, begun))
    for text, expected in zip(asked, llama_cpp.tokenize(path, asked), strict=True):
        assert tokenizer.encode(text, add_special_tokens=False, parse_special=False) == expected, repr(text)
    for text, expected in zip(begun, llama_cpp.tokenize(path, begun, special=True), strict=True):
        assert tokenizer.encode(text, parse_special=False) == expected, f"with what begins a text: {text!r}"


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_pre_tokenizers(llama_cpp: LlamaCpp, tmp_path: Path, pre: str) -> None:
    """A vocabulary that knows nothing of the name, so that only where words are cut is compared."""
    whole = metadata_of_json("gpt2", pre=pre)
    few = {
        GGML + "tokens": [*whole[GGML + "tokens"][: 256 + MERGES], "<|endoftext|>"],
        GGML + "token_type": (ARRAY, (I32, [1] * (256 + MERGES) + [3])),
        GGML + "merges": whole[GGML + "merges"][:MERGES],
        GGML + "bos_token_id": 256 + MERGES, GGML + "eos_token_id": 256 + MERGES,
    }  # fmt: skip
    path = write(tmp_path / "vocabulary.gguf", {"general.architecture": "llama", **whole, **few}, {})
    compare(llama_cpp, path, ())


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3", "baichuan"])
def test_files(llama_cpp: LlamaCpp, name: str) -> None:
    path = shared("assets", "ggml-vocab", f"ggml-vocab-{name}.gguf")
    compare(llama_cpp, path, CORPUS)
