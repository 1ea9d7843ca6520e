"""Linears as quantising tools write them, rounded to nearest from plain weights: every stored form that is read.

``FORMS[name].write(w)`` gives the tensors of one linear and the numbers that they stand for; ``written.py`` writes
whole checkpoints of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penstock.quant.words import ORDER

F8 = np.dtype(ml_dtypes.float8_e4m3fn)
BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = NDArray[np.float32]
Tensors = dict[str, np.ndarray[Any, Any]]
Written = tuple[Tensors, F32]


def packed(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Words of codes along the last axis, the first one lowest."""
    per = 32 // bits
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % per)])
    grouped = codes.reshape(*codes.shape[:-1], -1, per).astype(np.uint32)
    return (grouped << (bits * np.arange(per, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32).view(np.int32)


def interleaved(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Words of AWQ."""
    return packed(codes.reshape(codes.shape[0], -1, 8)[:, :, ORDER].reshape(codes.shape), 4)


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix rounded: codes [n, k] from 0, zero points and scales [n, groups], and the group of each input [k]."""

    codes: NDArray[np.int64]
    zeros: NDArray[np.int64]
    scales: np.ndarray[Any, Any]
    which: NDArray[np.int64]

    @property
    def numbers(self) -> F32:
        moved = (self.codes - self.zeros[:, self.which]).astype(np.float32)
        return moved * self.scales.astype(np.float32)[:, self.which]


def codes_of(
    w: F32, bits: int, group: int = -1, *, sym: bool = True, ordered: bool = False, dtype: Any = np.float16
) -> Codes:
    """To nearest, in a range that holds zero. ``ordered``: groups of inputs in an order, the same for all linears of as
    many inputs: an activation order is the same for all that read one value."""
    n, k = w.shape
    group = k if group <= 0 else group
    which = np.arange(k) // group
    if ordered:
        which = np.random.default_rng(k).permutation(which)
    most, groups = (1 << bits) - 1, which.max() + 1
    low = np.stack([np.minimum(w[:, which == g].min(axis=1), 0) for g in range(groups)], axis=1)
    high = np.stack([np.maximum(w[:, which == g].max(axis=1), 0) for g in range(groups)], axis=1)
    if sym:
        high = np.maximum(high, -low)
        low = -high
    scales = ((high - low) / most).astype(dtype)
    scales[scales == 0] = 1
    wide = scales.astype(np.float32)
    zeros = np.full((n, groups), (most + 1) // 2) if sym else np.clip(np.rint(-low / wide), 0, most).astype(np.int64)
    codes = np.clip(np.rint(w / wide[:, which]) + zeros[:, which], 0, most).astype(np.int64)
    return Codes(codes, zeros, scales, which)


@dataclass(frozen=True, slots=True)
class Form:
    """``config``: the ``quantization_config``, empty for plain numbers. ``write``: a matrix [n, k] as tensors by
    suffix, and its numbers. ``fits``: whether tools can store [n, k] so."""

    config: Mapping[str, Any]
    write: Callable[[F32], Written]
    fits: Callable[[int, int], bool] = lambda n, k: True


def plain_of(form: Form) -> Form:
    """The same numbers as float32."""

    def write(w: F32) -> Written:
        numbers = form.write(w)[1]
        return {"weight": numbers}, numbers

    return Form({}, write, form.fits)


def awq(group: int) -> Form:
    def write(w: F32) -> Written:
        made = codes_of(w, 4, group, sym=False)
        parts = {"qweight": interleaved(made.codes.T), "qzeros": interleaved(made.zeros.T), "scales": made.scales.T}
        return parts, made.numbers

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True,
              "modules_to_not_convert": None}  # fmt: skip
    return Form(config, write, lambda n, k: not n % 8 and not k % (2 if group < 0 else group))


def gptq(bits: int, group: int, *, sym: bool = True, desc_act: bool = False, v2: bool = False) -> Form:
    def write(w: F32) -> Written:
        made = codes_of(w, bits, group, sym=sym, ordered=desc_act)
        zeros = (made.zeros if v2 else made.zeros - 1) & ((1 << bits) - 1)
        parts = {"qweight": packed(made.codes, bits).T, "qzeros": packed(zeros.T, bits), "scales": made.scales.T,
                 "g_idx": made.which.astype(np.int32)}  # fmt: skip
        return parts, made.numbers

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": desc_act,
              "true_sequential": True, "lm_head": False, "damp_percent": 0.01, "pack_dtype": "int32",
              "checkpoint_format": "gptq_v2" if v2 else "gptq"}  # fmt: skip
    return Form(config, write, lambda n, k: not k % (32 // bits))


def compressed(form: str, weights: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What llm-compressor says of one group of linears."""
    said = {"observer": "minmax", "observer_kwargs": {}, "actorder": None, "group_size": None, "block_structure": None,
            "dynamic": False, "symmetric": True, **weights}  # fmt: skip
    group = {"targets": ["Linear"], "weights": said, "input_activations": inputs, "output_activations": None,
             "format": form}  # fmt: skip
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": 1.5, "version": "0.12.2",
            "sparsity_config": {}, "transform_config": {}, "config_groups": {"group_0": group}}  # fmt: skip


def pack_quantized(bits: int, group: int = -1, *, sym: bool = True, actorder: bool = False) -> Form:
    """W4A16 and W8A16."""

    def write(w: F32) -> Written:
        made = codes_of(w, bits, group, sym=sym, ordered=actorder, dtype=BF16)
        parts = {"weight_packed": packed(made.codes, bits), "weight_scale": made.scales,
                 "weight_shape": np.array(w.shape)}  # fmt: skip
        parts |= {} if sym else {"weight_zero_point": np.ascontiguousarray(packed(made.zeros.T, bits).T)}
        parts |= {"weight_g_idx": made.which.astype(np.int32)} if actorder else {}
        return parts, made.numbers

    weights = {"num_bits": bits, "type": "int", "strategy": "group" if group > 0 else "channel", "symmetric": sym,
               "group_size": group if group > 0 else None, "actorder": "group" if actorder else None}  # fmt: skip
    return Form(compressed("pack-quantized", weights), write)


TOKENS_INT8 = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
TOKENS_FP8 = {**TOKENS_INT8, "type": "float"}


def int_quantized(inputs: bool = True) -> Form:
    """W8A8 with inputs quantised token by token, or W8A16 in plain bytes."""

    def write(w: F32) -> Written:
        made = codes_of(w, 8, dtype=BF16)
        return {"weight": (made.codes - 128).astype(np.int8), "weight_scale": made.scales}, made.numbers

    weights = {"num_bits": 8, "type": "int", "strategy": "channel"}
    form = "int-quantized" if inputs else "naive-quantized"
    return Form(compressed(form, weights, TOKENS_INT8 if inputs else None), write)


def smoothquant() -> Form:
    return Form({"quant_method": "w8a8_int8"}, int_quantized().write)


def fp8_codes(w: F32, block: tuple[int, int]) -> tuple[np.ndarray[Any, Any], F32, F32]:
    """float8 numbers, the scale of each rectangle, and what they stand for."""
    (n, k), (rows, inputs) = w.shape, block
    grid = np.ix_(np.arange(0, n, rows), np.arange(0, k, inputs))
    most = np.maximum.reduceat(np.maximum.reduceat(np.abs(w), grid[0][:, 0], axis=0), grid[1][0], axis=1)
    scales = np.where(most == 0, 1, most / 448).astype(np.float32)
    wide = np.repeat(np.repeat(scales, rows, axis=0)[:n], inputs, axis=1)[:, :k]
    codes = np.clip(w / wide, -448, 448).astype(F8)
    return codes, scales, codes.astype(np.float32) * wide


def float_quantized(strategy: str, block: tuple[int, int] = (128, 128)) -> Form:
    """compressed-tensors' fp8, one scale for ``tensor``, ``channel`` or ``block``."""

    def write(w: F32) -> Written:
        sizes = {"tensor": w.shape, "channel": (1, w.shape[1]), "block": block}[strategy]
        codes, scales, numbers = fp8_codes(w, sizes)
        parts = {"weight": codes, "weight_scale": scales.reshape(-1) if strategy == "tensor" else scales}
        return parts | ({"input_scale": np.full(1, 0.02, np.float32)} if strategy == "tensor" else {}), numbers

    weights = {"num_bits": 8, "type": "float", "strategy": strategy,
               "block_structure": list(block) if strategy == "block" else None}  # fmt: skip
    inputs = TOKENS_FP8 if strategy != "tensor" else {**TOKENS_FP8, "strategy": "tensor", "dynamic": False}
    return Form(compressed("float-quantized", weights, inputs), write)


def fp8_blocks(block: tuple[int, int] = (128, 128)) -> Form:
    """DeepSeek's, and what transformers writes."""

    def write(w: F32) -> Written:
        codes, scales, numbers = fp8_codes(w, block)
        return {"weight": codes, "weight_scale_inv": scales}, numbers

    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(block),
              "modules_to_not_convert": ["lm_head"]}  # fmt: skip
    return Form(config, write)


FORMS: dict[str, Form] = {
    "AWQ, group 32": awq(32),
    "AWQ, group 64": awq(64),
    "GPTQ int4, group 32": gptq(4, 32),
    "GPTQ int4, group 64": gptq(4, 64),
    "GPTQ int4, whole row": gptq(4, -1),
    "GPTQ int4, group 32, asymmetric": gptq(4, 32, sym=False),
    "GPTQ int4, group 32, asymmetric, v2": gptq(4, 32, sym=False, v2=True),
    "GPTQ int4, group 32, desc_act": gptq(4, 32, desc_act=True),
    "GPTQ int4, group 32, desc_act, asymmetric": gptq(4, 32, sym=False, desc_act=True),
    "GPTQ int8, group 32": gptq(8, 32),
    "GPTQ int8, whole row": gptq(8, -1),
    "GPTQ int8, group 32, asymmetric": gptq(8, 32, sym=False),
    "GPTQ int8, group 32, desc_act": gptq(8, 32, desc_act=True),
    "compressed-tensors W4A16, group 32": pack_quantized(4, 32),
    "compressed-tensors W4A16, group 64, asymmetric": pack_quantized(4, 64, sym=False),
    "compressed-tensors W4A16, group 32, actorder": pack_quantized(4, 32, actorder=True),
    "compressed-tensors W4A16, channel": pack_quantized(4),
    "compressed-tensors W8A16, channel": pack_quantized(8),
    "compressed-tensors W8A16, group 32": pack_quantized(8, 32),
    "compressed-tensors W8A16, naive": int_quantized(inputs=False),
    "compressed-tensors W8A8": int_quantized(),
    "SmoothQuant (w8a8_int8)": smoothquant(),
    "compressed-tensors fp8, tensor": float_quantized("tensor"),
    "compressed-tensors fp8, channel": float_quantized("channel"),
    "compressed-tensors fp8, blocks of 128": float_quantized("block"),
    "fp8, blocks of 128": fp8_blocks(),
    "fp8, blocks of 32": fp8_blocks((32, 32)),
}
