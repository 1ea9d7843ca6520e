"""Merging: the golden values of the merged model, live and merged alike, and what cannot be merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock.checkpoints.folder import Checkpoint
from penstock.cli.main import main
from penstock.errors import CheckpointError, ConfigError, UnsupportedError
from penstock.toolchain import write_safetensors
from penstock.toolchain.merge import merge
from tests.adapters.some import base_of, generate, open_llm, q_lora, write_peft
from tests.adapters.test_golden import EXPERTS
from tests.harness import EXECUTORS, Runner, open_runner
from tests.helpers import golden

LORAS = (
    "peft_lora_all_r8", "peft_lora_subset_qv", "peft_lora_patterns", "peft_dora_r8", "peft_lora_modules_to_save",
    "peft_lora_gpt2_conv1d", "peft_lora_rslora_r8",
)  # fmt: skip


def base() -> Path:
    return golden("llama_gqa") / "ckpt"


@pytest.mark.parametrize(("name", "kind"), [*((name, "") for name in LORAS), *EXPERTS])
def test_golden(name: str, kind: str, tmp_path: Path) -> None:
    base = golden(name) / "ckpt" if kind else base_of(name)
    made = merge(base, golden(name) / (kind or "adapter"), tmp_path / "out", dtype="float32")
    assert made.changed > 0
    values = np.load(golden(name) / (f"golden_{kind}.npz" if kind else "golden.npz"))
    for executor in EXECUTORS:
        with open_runner(tmp_path / "out", executor) as runner:
            for prompt in ("p0", "p1", "p2"):
                ids, expected = values[f"{prompt}_ids"].tolist(), values[f"{prompt}_logits"]
                worst = np.abs(runner.prefill(ids) - expected).max() / max(1.0, float(expected.std()))
                assert worst < 1e-4
                assert runner.greedy(ids, 24) == values[f"{prompt}_greedy"].tolist()


def test_merged_is_live_within_rounding(tmp_path: Path) -> None:
    name = "peft_lora_all_r8"
    merge(base_of(name), golden(name) / "adapter", tmp_path / "out", dtype="float32")
    ids = [5, 9, 1, 77, 30, 12]
    with open_runner(tmp_path / "out", "native") as runner:
        merged = runner.prefill(ids)
    llm = open_llm(base_of(name), adapters={"a": str(golden(name) / "adapter")})
    run = Runner(llm.model.executor)
    (live,), _ = run.step([(run.add(ids), len(ids))], adapters=np.array([1], np.int32))
    llm.close()
    np.testing.assert_allclose(merged, live, rtol=0, atol=2e-5 * float(live.std()))


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_experts(name: str, tmp_path: Path) -> None:
    """Each expert's linears are matrices of their own in the file; the others stay as they are."""
    source = golden(name) / "ckpt"
    tensors = {key: array for file in source.glob("*.safetensors") for key, array in load_file(file).items()}
    rng = np.random.default_rng(0)
    factors: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for key, w in tensors.items():
        expected[key] = w.astype(np.float32)
        if ".experts." in key:
            a, b = (rng.standard_normal(shape).astype(np.float32) * 0.1 for shape in ((2, w.shape[1]), (w.shape[0], 2)))
            at = f"base_model.model.{key.removesuffix('.weight')}"
            factors |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
            expected[key] += np.float32(2) * (b @ a)
    assert factors
    merge(source, write_peft(tmp_path / "lora", factors), tmp_path / "out", dtype="float32")
    found = {key: array for file in (tmp_path / "out").glob("*.safetensors") for key, array in load_file(file).items()}
    assert found.keys() == expected.keys()
    for key, w in found.items():
        np.testing.assert_allclose(w.astype(np.float32), expected[key], rtol=0, atol=1e-6)


def test_what_is_written(tmp_path: Path) -> None:
    """Only the adapted tensors differ, in the base's type; small files come along, code and old weights do not."""
    source = tmp_path / "base"
    source.mkdir()
    tensors = {n: a.astype(ml_dtypes.bfloat16) for n, a in load_file(base() / "model.safetensors").items()}
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text((base() / "config.json").read_text())
    for name in ("tokenizer.json", "chat_template.jinja", "modeling_x.py", "old.bin", ".hidden.json", "LICENSE"):
        (source / name).write_text("{}")
    made = merge(source, write_peft(tmp_path / "a", q_lora(2)), tmp_path / "out")
    assert (made.changed, made.total) == (2, len(tensors))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.weights is not None
        assert sorted(checkpoint.weights.names()) == sorted(tensors)
        for name, old in tensors.items():
            new = checkpoint.weights.get(name)
            assert new.dtype == old.dtype
            adapted = name.endswith("q_proj.weight") and name.split(".")[2] in "01"
            assert (new.tobytes() == old.tobytes()) != adapted
        lora = q_lora(2)
        q = "model.layers.1.self_attn.q_proj"
        a, b = (lora[f"base_model.model.{q}.lora_{x}.weight"] for x in "AB")
        expected = (tensors[f"{q}.weight"].astype(np.float32) + 2.0 * (b @ a)).astype(ml_dtypes.bfloat16)
        found = checkpoint.weights.get(f"{q}.weight").astype(np.float32)
        np.testing.assert_allclose(found, expected.astype(np.float32), rtol=1 / 128)


def test_shards_and_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = merge(base(), write_peft(tmp_path / "a", q_lora()), tmp_path / "one")
    assert [file.name for file in whole.files] == ["model.safetensors"]
    shards = write_safetensors.write
    monkeypatch.setattr("penstock.toolchain.merge.write", lambda f, e, t: shards(f, e, t, shard_bytes=200_000))
    made = merge(base(), tmp_path / "a", tmp_path / "many")
    assert len(made.files) > 3
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(index["weight_map"]) == made.total
    with open_runner(tmp_path / "one") as one, open_runner(tmp_path / "many") as many:
        np.testing.assert_array_equal(one.prefill([1, 2, 3]), many.prefill([1, 2, 3]))


def test_a_tied_projection_becomes_a_tensor_of_its_own(tmp_path: Path) -> None:
    tied = tmp_path / "tied"
    tied.mkdir()
    tensors = load_file(base() / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    save_file(tensors, tied / "model.safetensors")
    config = {**json.loads((base() / "config.json").read_text()), "tie_word_embeddings": True}
    (tied / "config.json").write_text(json.dumps(config))
    vocab = config["vocab_size"]
    rng = np.random.default_rng(0)
    lora = {
        "base_model.model.lm_head.lora_A.weight": rng.standard_normal((2, 96)).astype(np.float32),
        "base_model.model.lm_head.lora_B.weight": rng.standard_normal((vocab, 2)).astype(np.float32),
    }
    adapter = write_peft(tmp_path / "a", lora)
    merge(tied, adapter, tmp_path / "out", dtype="float32")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    prompts = [[1, 2, 3], [40, 50]]
    live, merged = open_llm(tied, adapters={"a": str(adapter)}), open_llm(tmp_path / "out")
    assert generate(live, prompts, "a") == generate(merged, prompts) != generate(live, prompts)
    live.close()
    merged.close()


@pytest.mark.parametrize("name", ["peft_prefix_tuning", "peft_prompt_tuning"])
def test_a_prefix_cannot_be_merged(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge(base(), golden(name) / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes(tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "a", q_lora())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    out = tmp_path / "out"
    cases: list[tuple[Any, Any, Any, dict[str, Any], type[Exception], str]] = [
        (base(), adapter, tmp_path / "full", {}, ConfigError, "not empty"),
        (base(), adapter, out, {"dtype": "int8"}, ConfigError, "dtype must be"),
        (base(), tmp_path / "nowhere", out, {}, CheckpointError, "no such adapter"),
        (base(), write_peft(tmp_path / "wide", q_lora(k=95)), out, {}, CheckpointError, "another base"),
        (base(), write_peft(tmp_path / "deep", q_lora(99)), out, {}, CheckpointError, "layers.*another base"),
        (tmp_path / "a", adapter, out, {}, CheckpointError, "adapter"),
    ]
    for model, lora, to, options, kind, says in cases:
        with pytest.raises(kind, match=says):
            merge(model, lora, to, **options)
        assert not out.exists()
        assert not out.with_name("out.partial").exists()


def test_a_quantised_base_is_refused(tmp_path: Path) -> None:
    quantised = golden("fmt_gptq_int4_sym_g128_llama") / "ckpt"
    hidden = json.loads((quantised / "config.json").read_text())["hidden_size"]
    adapter = write_peft(tmp_path / "a", q_lora(n=hidden, k=hidden))
    with pytest.raises(UnsupportedError, match="unquantised"):
        merge(quantised, adapter, tmp_path / "out")
    with pytest.raises(UnsupportedError, match="GGUF's blocks cannot take a LoRA; merge into the original model"):
        merge(golden("gguf_llama") / "Q4_0.gguf", adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = write_peft(tmp_path / "a", q_lora(3))
    assert main(["merge", str(base()), str(adapter), "-o", str(tmp_path / "out")]) == 0
    assert "3 of " in capsys.readouterr().out
    assert main(["merge", str(base()), str(adapter)]) == 2
    assert "-o DIR" in capsys.readouterr().err
    assert main(["merge", str(base()), str(adapter), "-o", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err
