"""Random-weight checkpoints: speed and memory mean something, the text does not.

Written with numpy alone, a tensor at a time, in Hugging Face's layout, each once and then kept. ``awq``, ``gptq`` and
``w8a8`` (compressed-tensors) have random codes and scales that give the weights of all formats one spread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.shapes import Config, config_of, is_table, tensors

SPREAD = 0.02
GROUP = 128
QUANTISED = ("awq", "gptq", "w8a8")
Part = tuple[str, str, tuple[int, ...]]
WIDTHS = {"BF16": 2, "F16": 2, "I32": 4, "I8": 1}


class NotPossibleError(Exception):
    """A checkpoint that cannot be made here; the text says why."""


def make(shape: str, scheme: str, models: Path) -> Path:
    """The folder of ``shape`` in ``scheme`` (``hf``: bfloat16, or one of ``QUANTISED``), written if it is not there."""
    config = config_of(shape)
    target = models / (shape if scheme == "hf" else f"{shape}-{scheme}")
    if scheme in QUANTISED and config["model_type"] == "gpt2":
        raise NotPossibleError(f"{scheme} has no layout for {shape}")
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "tokenizer.json").exists():
        write_tokenizer(target, config["vocab_size"])
    if (target / "config.json").exists():
        return target
    parts = [part for name, size in tensors(config) for part in _parts(name, size, scheme)]
    _write(target / "model.safetensors", parts)
    if scheme in QUANTISED:
        config["quantization_config"] = _quantization_config(scheme)
        config["torch_dtype"] = "bfloat16" if scheme == "w8a8" else "float16"
    (target / "config.json").write_text(json.dumps(config, indent=1))
    return target


def weight_bytes(folder: Path, config: Config) -> int:
    """Bytes of the tensors that a step reads."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, info in header.items():
            if name != "__metadata__" and not name.endswith("g_idx") and not is_table(name, config):
                total += info["data_offsets"][1] - info["data_offsets"][0]
    return total


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level tokenizer: all bytes, one merge, and words that are never reached."""
    from tokenizers import pre_tokenizers

    tokens = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt"]
    return tokens + [f"Ġword{i}" for i in range(size - len(tokens))], ["Ġ t"]


def write_tokenizer(folder: Path, size: int) -> None:
    tokens, merges = vocabulary(size)
    added = [{"id": i, "content": t, "special": True, "normalized": False, "single_word": False, "lstrip": False,
              "rstrip": False} for i, t in enumerate(tokens[:3])]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {token: i for i, token in enumerate(tokens)}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
             "merges": merges}  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
             "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                "unk_token": "<unk>", "model_max_length": 1 << 20, "clean_up_tokenization_spaces": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _parts(name: str, shape: tuple[int, ...], scheme: str) -> Iterator[Part]:
    """Tensors of the file for one weight as (name, dtype, shape)."""
    dtype = "F16" if scheme in ("awq", "gptq") else "BF16"
    if scheme == "hf" or not name.endswith("_proj.weight"):
        yield name, dtype, shape
        return
    stem, (n, k) = name.removesuffix(".weight"), shape
    if scheme == "w8a8":
        yield f"{stem}.weight", "I8", (n, k)
        yield f"{stem}.weight_scale", "BF16", (n, 1)
        return
    yield f"{stem}.qweight", "I32", (k, n // 8) if scheme == "awq" else (k // 8, n)
    yield f"{stem}.qzeros", "I32", (k // GROUP, n // 8)
    yield f"{stem}.scales", "F16", (k // GROUP, n)
    if scheme == "gptq":
        yield f"{stem}.g_idx", "I32", (k,)


def _values(part: Part, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    name, dtype, shape = part
    kind = name.rpartition(".")[2]
    if dtype == "I8" or kind == "qweight":
        return np.frombuffer(rng.bytes(WIDTHS[dtype] * prod(shape)), np.int8 if dtype == "I8" else np.int32)
    if kind == "qzeros":
        return np.full(shape, 0x77777777, np.int32)  # 7, or 8 less one as GPTQ stores it
    if kind == "g_idx":
        return (np.arange(shape[0]) // GROUP).astype(np.int32)
    to = np.float16 if dtype == "F16" else ml_dtypes.bfloat16
    if kind in ("scales", "weight_scale"):
        return np.full(shape, SPREAD / (4.6 if kind == "scales" else 74.0), np.float32).astype(to)
    if len(shape) == 1:
        return (np.zeros(shape) if kind == "bias" else np.ones(shape)).astype(to)
    return (rng.standard_normal(shape, np.float32) * np.float32(SPREAD)).astype(to)


def _write(path: Path, parts: list[Part]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in parts:
        size = WIDTHS[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            file.write(_values(part, rng).tobytes())


def _quantization_config(scheme: str) -> dict[str, Any]:
    if scheme == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True,
                "modules_to_not_convert": None}  # fmt: skip
    if scheme == "gptq":
        return {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
                "lm_head": False, "true_sequential": True, "checkpoint_format": "gptq"}  # fmt: skip
    codes = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {"targets": ["Linear"], "weights": {**codes, "strategy": "channel", "dynamic": False},
             "input_activations": {**codes, "strategy": "token", "dynamic": True}}  # fmt: skip
    return {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
            "ignore": ["lm_head"], "config_groups": {"group_0": group}}  # fmt: skip
