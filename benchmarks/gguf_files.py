"""GGUF files of the same weights: bfloat16 written with the gguf library, block formats made from it.

Block formats come from llama.cpp where it is installed; without it q8_0 and q4_0 from the gguf library, and the
k-quants not at all.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import NotPossibleError, make, vocabulary
from benchmarks.shapes import Config, config_of, context_of

ARCHES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma", "gpt2": "gpt2",
          "qwen3_moe": "qwen3moe"}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
}  # fmt: skip
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}
"""llama.cpp's numbers of whole files' formats (``llama_ftype``)."""


def make_gguf(shape: str, fmt: str, models: Path, llama_python: str | None, threads: int) -> Path:
    """The file ``<shape>-gguf/<fmt>.gguf``, written if it is not there."""
    target = models / f"{shape}-gguf" / f"{fmt}.gguf"
    if target.exists():
        return target
    if fmt != "bf16" and fmt not in FILE_TYPES:
        raise NotPossibleError(f"no recipe for {fmt}")
    source = make(shape, "hf", models) if fmt == "bf16" else make_gguf(shape, "bf16", models, llama_python, threads)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    if fmt == "bf16":
        _write(source, partial, config_of(shape))
    elif llama_python is not None:
        _by_llama(source, partial, FILE_TYPES[fmt], llama_python, threads)
    elif fmt == "q4_k_m":
        raise NotPossibleError("q4_k_m is made by llama.cpp, which is not installed")
    else:
        _by_library(source, partial, fmt)
    partial.rename(target)
    return target


def weight_bytes(file: Path) -> int:
    """Bytes of the tensors that a step reads."""
    from penstock.checkpoints.gguf import open_gguf

    source = open_gguf([file])
    names = set(source.names())
    tables = {"position_embd.weight"} | ({"token_embd.weight"} if "output.weight" in names else set())
    total = sum(source.info(name).nbytes for name in names - tables)
    source.close()
    return total


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise NotPossibleError("GGUF files are written with the gguf library: pip install gguf") from None
    return gguf


def _write(folder: Path, target: Path, config: Config) -> None:
    gguf = _library()
    kind = config["model_type"]
    writer = gguf.GGUFWriter(str(target), ARCHES[kind])
    _facts(writer, config)
    tokens, merges = vocabulary(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if i < 3 else normal for i in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    experts: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, array in _tensors(folder / "model.safetensors"):
        stem, _, leaf = name.rpartition(".")
        if stem in TOP:
            _put(gguf, writer, f"{TOP[stem]}.{leaf}", array, kind)
            continue
        layer, _, rest = stem.partition(".layers." if ".layers." in stem else ".h.")[2].partition(".")
        if ".experts." in rest:
            part = rest.rpartition(".")[2].removesuffix("_proj")
            stack = experts.setdefault(f"blk.{layer}.ffn_{part}_exps.weight", [])
            stack.append(array)
            if len(stack) == config["num_experts"]:
                whole = f"blk.{layer}.ffn_{part}_exps.weight"
                _put(gguf, writer, whole, np.stack(experts.pop(whole)), kind)
            continue
        if kind == "gpt2" and leaf == "weight" and array.ndim == 2:
            array = array.T
        if kind == "llama" and NAMES[rest] in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if NAMES[rest] == "attn_q" else "num_key_value_heads"]
            array = _interleaved(array, heads)
        _put(gguf, writer, f"blk.{layer}.{NAMES[rest]}.{leaf}", array, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _facts(writer: Any, config: Config) -> None:
    writer.add_context_length(context_of(config))
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "gpt2":
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def _tensors(path: Path) -> Any:
    """Names and bfloat16 tensors, as 16-bit patterns, of a file that ``checkpoints`` wrote."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", 8 + length)
    for name, info in header.items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            yield name, data[begin:end].view(np.uint16).reshape(info["shape"])


def _interleaved(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of rotary halves as rows of rotary pairs, which is how the llama architecture's files have them."""
    n, k = array.shape
    return array.reshape(heads, 2, n // heads // 2, k).swapaxes(1, 2).reshape(n, k)


def _put(gguf: Any, writer: Any, name: str, array: np.ndarray[Any, Any], kind: str) -> None:
    if array.ndim > 1 and not name.startswith("position_embd") and "_inp." not in name:
        raw = np.ascontiguousarray(array).view(np.uint8)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        return
    floats = (np.ascontiguousarray(array).astype(np.uint32) << 16).view(np.float32)
    writer.add_tensor(name, floats + 1 if kind == "gemma" and "norm" in name else floats)


def _by_llama(source: Path, target: Path, file_type: int, python: str, threads: int) -> None:
    code = (
        "import ctypes, sys, llama_cpp as l\n"
        "p = l.llama_model_quantize_default_params()\n"
        "p.ftype, p.nthread, p.allow_requantize = int(sys.argv[3]), int(sys.argv[4]), True\n"
        "sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))\n"
    )
    command = [python, "-c", code, str(source), str(target), str(file_type), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotPossibleError(f"llama.cpp could not make it: {last}")


def _by_library(source: Path, target: Path, fmt: str) -> None:
    gguf = _library()
    reader = gguf.GGUFReader(str(source))
    to = gguf.GGMLQuantizationType[fmt.upper()]
    writer = gguf.GGUFWriter(str(target), reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "general.architecture", "general.file_type")):
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    writer.add_file_type(FILE_TYPES[fmt])
    for tensor in reader.tensors:
        if tensor.tensor_type != gguf.GGMLQuantizationType.BF16:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        floats = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, gguf.quants.quantize(floats, to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
