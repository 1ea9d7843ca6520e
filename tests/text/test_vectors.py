"""Real vocabularies against ids that their original code gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.text.tokenizer import Tokenizer
from tests.helpers import shared
from tests.text.vocabularies import REAL, SENTENCEPIECE, real

VECTORS = [
    ("gpt-2", "gpt2"), ("gpt-2", "gpt2-bpe"), ("llama-spm", "llama2"), ("phi-3", "llama2"), ("llama-bpe", "llama3"),
    ("qwen2", "qwen2"), ("qwen2", "qwen"),
]  # fmt: skip


def vectors(name: str) -> list[tuple[str, list[int]]]:
    base = shared("assets", "ggml-vocab", f"ggml-vocab-{name}.gguf.inp")
    texts = base.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = base.with_suffix(".out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines)]


@pytest.mark.parametrize(("vector", "name"), VECTORS)
def test_vectors_of_llama_cpp(vector: str, name: str) -> None:
    tokenizer = real(name)
    for text, ids in vectors(vector):
        assert tokenizer.encode(text, add_special_tokens=False, parse_special=False) == ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ["stories", "stories-spm"])
def test_prompt_of_the_trained_model(name: str) -> None:
    golden = json.loads(shared("assets", "stories260K-llama", "GOLDEN.json").read_text())
    tokenizer = real(name)
    assert tokenizer.encode(golden["prompt"]) == golden["prompt_ids"]
    assert tokenizer.decode(golden["greedy_ids"]) == golden["greedy_text"]
    assert (tokenizer.bos_id, tokenizer.eos_id, set(tokenizer.eos_ids)) == (1, 2, {2})


def lines_of(name: str, count: int) -> list[str]:
    text = shared("assets", "text", name).read_bytes().decode("utf-8")
    return text.splitlines(keepends=True)[:count]


CORPUS = ("wiki.test.raw", "tinystories.txt", "tinyshakespeare.txt", "西游记.txt")


def test_the_two_files_of_the_trained_model_agree() -> None:
    fast, slow = real("stories"), real("stories-spm")
    for file in CORPUS:
        for line in lines_of(file, 80):
            assert fast.encode(line) == slow.encode(line)
    assert [fast.token_bytes(i) for i in range(3, 512)] == [slow.token_bytes(i) for i in range(3, 512)]


def test_qwen_rank_file_and_json_agree() -> None:
    ranks, json_file = real("qwen"), real("qwen2")
    for file in CORPUS:
        for line in lines_of(file, 200):
            assert ranks.encode(line) == json_file.encode(line)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("file", CORPUS)
def test_round_trip_of_texts(name: str, file: str) -> None:
    tokenizer = real(name)
    for line in lines_of(file, 120):
        ids = tokenizer.encode(line, parse_special=False)
        if name == "baichuan":  # its model folds compatibility characters (NFKC); once folded, text is kept
            line = tokenizer.decode(ids)
            ids = tokenizer.encode(line, parse_special=False)
        assert tokenizer.decode(ids) == line


@pytest.mark.parametrize("name", [n for n in SENTENCEPIECE if n != "stories"])
def test_same_ids_and_text_as_the_sentencepiece_library(name: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = shared("assets", *REAL[name][0].split("/"))
    path = next(iter(sorted(folder.glob("tokenizer.model*"))), None) or next(iter(sorted(folder.glob("*.model*"))))
    library = sentencepiece.SentencePieceProcessor()
    library.LoadFromSerializedProto(path.read_bytes())
    tokenizer = real(name)
    for file in CORPUS:
        for line in lines_of(file, 60):
            ids = library.encode(line)
            assert tokenizer.encode(line, add_special_tokens=False) == ids
            assert tokenizer.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_every_mistral_file(number: int, tmp_path: Path) -> None:
    path = next(shared("assets", "tokenizers", "mistral").glob(f"*.model.v{number}"))
    (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "<s>[INST] Hello 你好[/INST]"
    ids = tokenizer.encode_prompt(text)
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert (3 in ids and 4 in ids) == (number > 1)  # [INST] became a token of its own with version 2
    assert tokenizer.decode(ids) == ("[INST] Hello 你好[/INST]" if number == 1 else "Hello 你好")


def test_chatglm_prefix_and_roles(tmp_path: Path) -> None:
    tokenizer = real("chatglm2")
    assert tokenizer.prefix_ids == (64790, 64792)
    assert tokenizer.encode("你好")[:2] == [64790, 64792]
    assert 64792 not in tokenizer.encode("philosophy", add_special_tokens=False)
    for text in ("[gMASK]sop你好", "你好"):  # the prefix is never put in twice
        ids = tokenizer.encode_prompt(text)
        assert ids[:2] == [64790, 64792]
        assert 64790 not in ids[2:]
        assert tokenizer.decode(ids) == "你好"
    (tmp_path / "tokenizer.model").write_bytes(
        shared("assets", "tokenizers", "chatglm2", "tokenizer.model").read_bytes()
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    third = Tokenizer.from_folder(tmp_path)
    assert third.token_to_id("<|user|>") == 64795
    assert third.encode("<|assistant|>", add_special_tokens=False) == [64796]
    assert third.encode("<|user|>\n hi", add_special_tokens=False) == [
        64795, *third.encode("\n hi", add_special_tokens=False)
    ]  # fmt: skip


def test_baichuan_roles_are_control_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(
        shared("assets", "tokenizers", "baichuan", "tokenizer.model").read_bytes()
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BaichuanTokenizer"}')
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.prefix_ids == ()
    assert tokenizer.token(195) == "<reserved_102>"
    assert 195 in tokenizer.encode("<reserved_102>你好")
    harmless = tokenizer.encode("<reserved_102>你好", parse_special=False)
    assert 195 not in harmless
    assert tokenizer.decode(harmless) == "<reserved_102>你好"
