"""Made checkpoints are what they say: penstock reads all of them, and the same weights give the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.checkpoints import NotPossibleError

from benchmarks import checkpoints, gguf_files, shapes
from penstock import LLM, SamplingParams

SMALL = {
    "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 600, "max_position_embeddings": 256,
}  # fmt: skip
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
GPT2 = {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_ctx": 256, "vocab_size": 600}


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in list(shapes.SHAPES.items()):
        if config["model_type"] == "gpt2":
            changed = {**config, **GPT2}
        else:
            changed = {**config, **SMALL, **(MIXTURE if "num_experts" in config else {})}
        monkeypatch.setitem(shapes.SHAPES, name, changed)


def tokens(path: Path) -> list[int]:
    with LLM(str(path), skip_tokenizer_init=True, threads=1, dtype="float32", max_model_len=128) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        return list(llm.generate(list(range(300, 320)), params)[0].outputs[0].token_ids)


@pytest.mark.parametrize("shape", sorted(shapes.SHAPES))
def test_the_gguf_file_is_the_same_model(shape: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = checkpoints.make(shape, "hf", tmp_path)
    file = gguf_files.make_gguf(shape, "bf16", tmp_path, None, 1)
    assert tokens(folder) == tokens(file)
    config = shapes.config_of(shape)
    size = checkpoints.weight_bytes(folder, config)
    assert gguf_files.weight_bytes(file) == pytest.approx(size, rel=0.05)  # norms and biases are float32 there


@pytest.mark.parametrize("scheme", checkpoints.QUANTISED)
@pytest.mark.parametrize("shape", ["tiny", "qwen2.5-0.5b"])
def test_quantised_checkpoints_load(shape: str, scheme: str, tmp_path: Path) -> None:
    folder = checkpoints.make(shape, scheme, tmp_path)
    assert len(tokens(folder)) == 8
    plain = checkpoints.make(shape, "hf", tmp_path)
    config = shapes.config_of(shape)
    assert checkpoints.weight_bytes(folder, config) < checkpoints.weight_bytes(plain, config)


@pytest.mark.parametrize("fmt", ["q8_0", "q4_0"])
def test_block_formats_without_llama_cpp(fmt: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = gguf_files.make_gguf("tiny", fmt, tmp_path, None, 1)
    assert len(tokens(file)) == 8
    assert gguf_files.make_gguf("tiny", fmt, tmp_path, None, 1) == file  # kept
    assert sorted(p.name for p in file.parent.iterdir()) == ["bf16.gguf", f"{fmt}.gguf"]


def test_what_cannot_be_made_says_why(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(NotPossibleError, match=r"q4_k_m is made by llama.cpp, which is not installed"):
        gguf_files.make_gguf("tiny", "q4_k_m", tmp_path, None, 1)
    with pytest.raises(NotPossibleError, match="awq has no layout for gpt2"):
        checkpoints.make("gpt2-124m", "awq", tmp_path)


def test_checkpoints_are_made_once(tmp_path: Path) -> None:
    folder = checkpoints.make("tiny", "hf", tmp_path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert checkpoints.make("tiny", "hf", tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_tokenizer_knows_every_token(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folder = checkpoints.make("tiny", "hf", tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == SMALL["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("plain text, 你好").ids) == "plain text, 你好"
    assert tokenizer.token_to_id("</s>") == 2
