"""Checkpoints and wishes that cannot work, as a user meets them: one line, what to do about it, exit code not 0."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.conftest import Result, Run
from tests.cli.parrot import make_parrot

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 409936\n"


@pytest.fixture
def folder(parrot: Path, tmp_path: Path) -> Path:
    return shutil.copytree(parrot, tmp_path / "model")


def refused(run: Run, folder: Path, *args: object, code: int = 3, prompt: object = "hi") -> str:
    """The one line that ``generate`` says; nothing on stdout, the same refusal from ``chat``."""
    result = run("generate", "-m", folder, "-n", 2, *args, "--", prompt)
    assert_one_line(result, code)
    assert_one_line(run("chat", folder, "-n", 2, *args, stdin="hi\n"), code)
    return result.err


def assert_one_line(result: Result, code: int) -> None:
    assert result.out == ""
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert "defect of penstock" not in result.err
    assert "Traceback" not in result.err
    assert result.code == code, result.err


def config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path)


# ------------------------------------------------------------------------------------------------------- weight files


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.5, 0.999])
def test_a_download_that_was_cut_off(run: Run, folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    said = refused(run, folder)
    assert "model.safetensors" in said
    assert "download" in said


@pytest.mark.parametrize("length", [0, 5, 1 << 62, (1 << 64) - 1])
def test_a_header_with_an_absurd_length(run: Run, folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert "model.safetensors" in refused(run, folder)


@pytest.mark.parametrize(
    "header",
    [b"{", b"[]", b"\xff\xfe", b'{"x": 3}', b'{"x": {"dtype": "F32", "shape": [1e9], "data_offsets": [0, 4]}}',
     b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
     b'{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
     b'{"x": {"dtype": "F32", "shape": [1073741824, 1073741824, 1073741824], "data_offsets": [0, 4]}}',
     b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999]}}', b"[" * 50000],
)  # fmt: skip
def test_a_header_of_any_nonsense(run: Run, folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert "model.safetensors" in refused(run, folder)


def test_a_pointer_in_place_of_weights(run: Run, folder: Path) -> None:
    (folder / "model.safetensors").write_text(POINTER)
    assert "git lfs pull" in refused(run, folder)


def test_a_pointer_in_place_of_a_tokenizer(run: Run, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(POINTER)
    assert "git lfs pull" in refused(run, folder)


def test_no_weights_at_all(run: Run, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refused(run, folder)


def test_a_pickle_is_not_loaded(run: Run, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    refused(run, folder)


def shards(folder: Path) -> list[str]:
    tensors = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts: list[dict[str, Any]] = [{}, {}]
    for number, (name, tensor) in enumerate(tensors.items()):
        parts[number % 2][name] = tensor
    for name, part in zip(names, parts):
        save_file(part, folder / name)
    index = {"metadata": {}, "weight_map": {t: name for name, part in zip(names, parts) for t in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def test_a_missing_shard(run: Run, folder: Path) -> None:
    names = shards(folder)
    assert run("generate", "hi", "-m", folder, "-q", "-n", 1).code == 0
    (folder / names[1]).unlink()
    said = refused(run, folder)
    assert names[1] in said


def test_an_index_that_names_what_its_files_lack(run: Run, folder: Path) -> None:
    names = shards(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], names[0])
    path.write_text(json.dumps(index))
    assert "download both again" in refused(run, folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../../etc/passwd"}}'])
def test_a_damaged_index(run: Run, folder: Path, content: str) -> None:
    shards(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refused(run, folder)


def test_a_wrong_shape(run: Run, folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors["model.norm.weight"] = np.ones(7, np.float32)
        tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"][:-1])

    weights(folder, change)
    said = refused(run, folder)
    assert "norm" in said
    assert "7" in said


def test_weights_that_are_missing_and_left_over_are_all_named(run: Run, folder: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        del tensors["model.norm.weight"], tensors["model.layers.0.mlp.up_proj.weight"]
        tensors["model.layers.0.mlp.odd"] = np.ones(3, np.float32)

    weights(folder, change)
    said = refused(run, folder)
    assert all(name in said for name in ("model.norm.weight", "up_proj", "mlp.odd"))


# ------------------------------------------------------------------------------------------------------ configurations


def test_a_folder_without_config(run: Run, folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json" in refused(run, folder)


def test_an_empty_folder_a_file_and_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(run, tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in refused(run, tmp_path / "notes.txt")
    assert "none" in refused(run, tmp_path / "none")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\x00\x01", '{"model_type": 3}', "{}", "[" * 50000])
def test_a_config_that_is_none(run: Run, folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    said = refused(run, folder)
    assert "config.json" in said or "model_type" in said


def test_an_unknown_architecture(run: Run, folder: Path) -> None:
    config(folder, model_type="lamma", architectures=["LammaForCausalLM"])
    said = refused(run, folder)
    assert "lamma" in said
    assert "'llama'" in said
    config(folder, model_type="whisper", architectures=["WhisperForConditionalGeneration"])
    assert "whisper" in refused(run, folder)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"hidden_size": 10**12}, "hidden_size"), ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": "big"}, "hidden_size"), ({"hidden_size": ...}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"), ({"num_hidden_layers": 2}, "layers.1"),
        ({"num_attention_heads": 0}, "num_attention_heads"), ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"vocab_size": 999}, "embed"), ({"rms_norm_eps": "x"}, "rms_norm_eps"),
        ({"rope_scaling": {"rope_type": "magic"}}, "magic"), ({"hidden_act": "sulu"}, "sulu"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit(run: Run, folder: Path, changes: dict[str, Any], word: str) -> None:
    config(folder, **changes)
    assert word in refused(run, folder)


# ---------------------------------------------------------------------------------------------------------- tokenizers


def test_the_tokenizer_of_another_model(run: Run, folder: Path, tmp_path: Path) -> None:
    """More tokens than the model has rows: a prompt could not be looked up."""
    other = make_parrot(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {**vocab, **{f"word{i}": len(vocab) + 1 + i for i in range(500)}}
    content["model"]["merges"] = []
    content["added_tokens"].append({**content["added_tokens"][0], "id": 5000, "content": "hi"})
    (other / "tokenizer.json").write_text(json.dumps(content))
    said = refused(run, folder, "--tokenizer", other, prompt="hi")
    assert "tokenizer" in said
    shutil.copy(other / "tokenizer.json", folder / "tokenizer.json")
    assert "tokenizer" in refused(run, folder)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "Magic"}}', "[" * 50000])
def test_a_damaged_tokenizer(run: Run, folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json" in refused(run, folder)


def test_no_tokenizer(run: Run, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "--skip-tokenizer-init" in refused(run, folder)


@pytest.mark.parametrize(
    "template", ["{% for", "{{ 1 / 0 }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ x.y.z }}"]
)
def test_a_broken_chat_template(run: Run, folder: Path, template: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    result = run("chat", folder, "-q", stdin="hi\n")
    assert_one_line(result, result.code)
    assert result.code in (2, 3)
    assert "template" in result.err
    assert run("generate", "hi", "-m", folder, "-q", "-n", 1).code == 0


# -------------------------------------------------------------------------------------------------------------- wishes


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--n", 10**9), ("--n", 0), ("--n", -1), ("--n", 10**30), ("--temperature", "NaN"), ("--temperature", "inf"),
        ("--temperature", -1), ("--temperature", "1e300"), ("--top-p", "nan"), ("--top-p", 0), ("--top-p", 1.01),
        ("--top-k", -2), ("--min-p", "nan"), ("--repetition-penalty", 0), ("--repetition-penalty", "nan"),
        ("--presence-penalty", "inf"), ("--frequency-penalty", "-inf"), ("--max-tokens", 0), ("--max-tokens", -5),
        ("--max-tokens", 10**9), ("--seed", 10**30), ("--logprobs", 10**9), ("--stop-token-ids", -1),
        ("--min-tokens", 10**9), ("--max-model-len", 0), ("--max-model-len", 10**12), ("--max-num-seqs", 0),
        ("--max-num-seqs", 10**12), ("--max-num-batched-tokens", 10**12), ("--threads", -1), ("--threads", 10**9),
        ("--kv-cache-memory", "1K"), ("--memory-utilization", "nan"),
        ("--memory-utilization", 2), ("--block-size", 3), ("--isa", "sse9"), ("--executor", "gpu"), ("--mode", "fast"),
        ("--dtype", "int3"), ("--quantization", "awesome"), ("--max-logits-rows", 0), ("--prefill-chunk", -1),
        ("--hf-overrides", '{"hidden_size": 1}'), ("--chat-template", "{% for"),
    ],
)  # fmt: skip
def test_absurd_parameters(run: Run, parrot: Path, flag: str, value: object) -> None:
    result = run("generate", "--chat", "hi", "-m", parrot, "-q", flag, value)
    assert_one_line(result, result.code)
    assert result.code in (2, 3)
    name = flag.removeprefix("--")
    words = (name, name.replace("-", "_"), {"isa": "instruction set", "hf-overrides": "config.json"}.get(name, name))
    assert any(word in result.err for word in words), result.err


def test_prompts_that_cannot_be_served(run: Run, parrot: Path) -> None:
    empty = run("generate", "", "-m", parrot, "-q")
    assert_one_line(empty, 2)
    assert "empty" in empty.err
    assert_one_line(run("generate", "-", "-m", parrot, "-q", stdin=""), 2)
    long = run("generate", "x" * 10000, "-m", parrot, "-q")
    assert_one_line(long, 2)
    assert "10000" in long.err
    assert "4096" in long.err
    assert_one_line(run("chat", parrot, "-q", stdin="x" * 10000 + "\n"), 2)
    assert_one_line(run("generate", "a\udcff", "-m", parrot, "-q"), 2)
    one_bad = run("generate", "fine", "", "-m", parrot, "-q")
    assert_one_line(one_bad, 2)


def test_a_chat_goes_on_after_a_bad_message(run: Run, parrot: Path) -> None:
    result = run("chat", parrot, "-q", stdin="x" * 10000 + "\nhi\n")
    assert result.out.count("Hello") == 1
    assert result.code == 2
