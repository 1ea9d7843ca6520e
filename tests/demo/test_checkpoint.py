"""The shipped folder: small enough, loads anywhere, and its tokenizer loses nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.helpers import REPOSITORY

FOLDER = REPOSITORY / "src" / "penstock" / "demo_model"
LIMIT = 9_500_000
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def load(name: str) -> dict[str, object]:
    """A JSON file of the folder."""
    data: dict[str, object] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return data


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LIMIT


def test_the_weights_are_those_of_the_config() -> None:
    config = load("config.json")
    raw = (FOLDER / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    assert config["model_type"] == "llama"
    assert shapes["model.embed_tokens.weight"] == [config["vocab_size"], config["hidden_size"]]
    assert "lm_head.weight" not in shapes
    assert config["tie_word_embeddings"] is True
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"BF16"}
    assert len(shapes) == 2 + 9 * int(str(config["num_hidden_layers"]))


def test_both_end_tokens_stop_the_answer() -> None:
    ends = {TOKENIZER.token_to_id("<|im_end|>"), TOKENIZER.token_to_id("<|endoftext|>")}
    assert set(load("generation_config.json")["eos_token_id"]) == ends  # type: ignore[call-overload]
    assert load("config.json")["eos_token_id"] in ends


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_tokenizer_loses_nothing(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_digits_and_chinese_characters_stand_alone() -> None:
    pieces = [TOKENIZER.decode([i]) for i in TOKENIZER.encode("2026 杭州省会", add_special_tokens=False).ids]
    assert pieces == ["2", "0", "2", "6", " ", "杭", "州", "省", "会"]


def test_transformers_gives_the_promised_answers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    tok = transformers.AutoTokenizer.from_pretrained(Path(FOLDER))
    model = transformers.AutoModelForCausalLM.from_pretrained(Path(FOLDER), dtype=torch.float32)
    for question, answer in (("你好, 浙江的省会在哪里?", "杭州"), ("What is the capital of France?", "Paris")):
        talk = [{"role": "user", "content": question}]
        text = tok.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert text == f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = tok(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        out = model.generate(ids, max_new_tokens=40)[0, ids.shape[1] :]
        assert answer in tok.decode(out, skip_special_tokens=True)
        assert int(out[-1]) == tok.convert_tokens_to_ids("<|im_end|>")
    ids = tok("The capital of France is", return_tensors="pt")["input_ids"]
    assert "Paris" in tok.decode(model.generate(ids, max_new_tokens=8)[0, ids.shape[1] :])
