"""How fast each format is read: weights of 4096 x 4096 from their tensors to canonical arrays, and to float32.

    python -m tests.quant.speed

A copy of the same bytes by numpy stands beside each, as the limit of one thread on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from penstock.models.program import WeightSpec
from penstock.quant.awq import AwqScheme
from penstock.quant.coded import CodedScheme
from penstock.quant.dequantise import dequantise
from penstock.quant.formats import BLOCKS
from penstock.quant.gptq import GptqScheme
from penstock.quant.onthefly import quantise
from penstock.quant.packed import PackedScheme
from penstock.quant.scheme import Scheme, WeightData

N = 4096
SPEC = WeightSpec("w", (N, N), "matrix")


def seconds(run: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def words(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-(1 << 31), 1 << 31, shape, dtype=np.int64).astype(np.int32)


def copies(tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [array.copy() for array in tensors.values()]


def main() -> None:
    scales = np.full((N // 128, N), 0.01, np.float16)
    rows = np.full((N, N // 128), 0.01, np.float16)
    coded = np.random.default_rng(0).integers(-127, 128, (N, N), dtype=np.int8)
    cases: dict[str, tuple[Scheme, dict[str, np.ndarray]]] = {
        "awq int4": (
            AwqScheme(128),
            {"qweight": words(N, N // 8), "qzeros": words(N // 128, N // 8), "scales": scales},
        ),
        "gptq int4": (
            GptqScheme(4, 128, True),
            {"qweight": words(N // 8, N), "qzeros": words(N // 128, N // 8), "scales": scales},
        ),
        "gptq int8": (
            GptqScheme(8, 128, True),
            {"qweight": words(N // 4, N), "qzeros": words(N // 128, N // 4), "scales": scales},
        ),
        "compressed-tensors int4": (
            PackedScheme(4, True, 128), {"weight_packed": words(N, N // 8), "weight_scale": rows},
        ),
        "compressed-tensors int8": (CodedScheme("x"), {"weight": coded, "weight_scale": rows[:, :1]}),
        "fp8 in blocks": (
            CodedScheme("x", block=(128, 128)),
            {"weight": coded.view(ml_dtypes.float8_e4m3fn), "weight_scale": np.ones((N // 128, N // 128), np.float32)},
        ),
    }  # fmt: skip
    print("| format | read, GB/s of the file | of a copy | read, million weights/s | float32, million weights/s |")
    print("|---|---|---|---|---|")
    for name, (scheme, tensors) in cases.items():
        size = sum(array.nbytes for array in tensors.values())
        read = seconds(partial(scheme.build, SPEC, tensors))
        copy = seconds(partial(copies, tensors))
        data = scheme.build(SPEC, tensors)
        line(name, f"{size / read / 1e9:.2f} | {copy / read:.2f} | {N * N / read / 1e6:.0f}", data)
    for kind, block in BLOCKS.items():
        raw = np.zeros((N, N // block.elements * block.nbytes), np.uint8)
        line(kind, "a view | - | -", WeightData(kind, (N, N), {"blocks": raw}))
    plain = WeightData("f32", (N, N), {"weight": np.random.default_rng(0).standard_normal((N, N), np.float32)})
    for bits, group in ((8, 128), (4, 32)):
        took = seconds(partial(quantise, plain, bits, group))
        line(f"made at load: int{bits}", f"{N * N * 4 / took / 1e9:.2f} | - | {N * N / took / 1e6:.0f}",
             quantise(plain, bits, group))  # fmt: skip


def line(name: str, read: str, data: WeightData) -> None:
    print(f"| {name} | {read} | {N * N / seconds(lambda: dequantise(data)) / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
