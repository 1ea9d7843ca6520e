"""What quantised checkpoints and inputs of eight bits cost: logits and perplexity of quantised weights against plain
ones, and of weights that meet whole numbers against the same weights that meet floats.

    python -m benchmarks.activation [windows] [--ggml libggml-base.so]

Two trained models on the native executor: stories260K of the shared assets, over windows of 256 tokens of
tinystories.txt; and the embedded model, whose rows are long enough for blocks of 256, over as many conversations as its
training draws them, of which the answers count.
Block formats are made by llama.cpp's library where ``--ggml`` (or PENSTOCK_GGML) says where it is, else those that the
gguf package can make. Then what caches of fewer bits cost, and stories260K as a checkpoint of every quantised form
(``stored.py``). Prints the tables of docs/formats.md.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tools.train_demo.documents import Sampler, all_items

from benchmarks import stored
from penstock.assemble import EMBEDDED
from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.checkpoints.ties import settle_ties
from penstock.models.decoder import build
from penstock.models.program import WeightSpec
from penstock.models.registry import resolve
from penstock.quant.formats import BLOCKS
from penstock.quant.onthefly import Convert, converter
from penstock.quant.rounding import PLAIN, rounded
from penstock.quant.scheme import WeightData
from tests.harness import Runner, executor_class, limits
from tests.helpers import shared
from tests.quant.measure import WINDOW, perplexity, windows_of

F32 = NDArray[np.float32]
Quantiser = Callable[[F32, str], NDArray[np.uint8]]


def by_library(w: F32, kind: str) -> NDArray[np.uint8]:
    """The gguf package's quantisers. Raises ``NotImplementedError`` for types that it can only read."""
    return np.asarray(gguf.quantize(w, gguf.GGMLQuantizationType[kind.upper()]))


def by_ggml(path: str) -> Quantiser:
    """llama.cpp's own quantisers, without an importance matrix."""
    library = ctypes.CDLL(path)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p,
    ]  # fmt: skip

    def quantise(w: F32, kind: str) -> NDArray[np.uint8]:
        block, (n, k) = BLOCKS[kind], w.shape
        out = np.empty((n, k // block.elements * block.nbytes), np.uint8)
        names = {t.name.lower(): int(t) for t in gguf.GGMLQuantizationType}
        made = library.ggml_quantize_chunk(names[kind], w.ctypes.data, out.ctypes.data, 0, n, k, None)
        if made != out.nbytes:
            raise ValueError(f"{kind}: the library wrote {made} bytes, not {out.nbytes}")
        return out

    return quantise


def blocks(kind: str, quantiser: Quantiser) -> Convert:
    def convert(spec: WeightSpec, data: WeightData) -> WeightData:
        if spec.kind != "matrix" or data.shape[-1] % BLOCKS[kind].elements:
            return data
        w = np.ascontiguousarray(data.arrays["weight"], np.float32)
        return WeightData(kind, data.shape, {"blocks": quantiser(w, kind)})

    return convert


def w8a8(spec: WeightSpec, data: WeightData) -> WeightData:
    """int8 with one scale a row, inputs too: what SmoothQuant and compressed-tensors checkpoints are."""
    made = converter("int8", data.shape[-1])(spec, data)
    if PLAIN not in made.arrays:
        return made
    made = rounded(made)
    return WeightData(made.format, made.shape, made.arrays, params={**made.params, "act": "int8"})


def as_it_is(spec: WeightSpec, data: WeightData) -> WeightData:
    return data


class Model:
    """A folder's program, and its logits over windows under one conversion and one arithmetic."""

    def __init__(self, folder: Path, windows: list[list[int]], counted: list[list[bool]] | None = None) -> None:
        self.folder, self.windows, self.counted = folder, windows, counted

    def perplexity(self, logits: list[F32]) -> float:
        return perplexity(logits, self.windows, self.counted)

    def logits(self, convert: Convert, activation: str, cache: str = "f32") -> tuple[list[F32], int]:
        """Of each window, and how many matrices are quantised."""
        with Checkpoint.open(self.folder) as checkpoint:
            family = resolve(checkpoint.config)
            architecture = family.architecture(checkpoint.config)
            rules = family.rules(architecture, checkpoint.config)
            assert checkpoint.weights is not None
            program = build(settle_ties(architecture, checkpoint.weights, rules))
            executor = executor_class("native")(
                program, limits(kv_dtype=cache), compute="auto" if activation == "int8" else "f32", threads=1, isa=None,
                activation=activation,
            )  # fmt: skip
            made: list[str] = []

            def converted() -> Iterator[tuple[WeightSpec, WeightData]]:
                for spec, data in stream_weights(checkpoint, program, rules):
                    numbers = np.asarray(data.arrays["weight"], np.float32)  # the rest in float32 in both runs
                    data = convert(spec, WeightData("f32", data.shape, {"weight": numbers}))
                    made.append(data.format)
                    yield spec, data

            executor.load(converted())
        runner = Runner(executor)
        try:
            return [runner.prefill(window) for window in self.windows], sum(fmt != "f32" for fmt in made)
        finally:
            executor.close()


def cases(quantiser: Quantiser) -> dict[str, Convert]:
    found: dict[str, Convert] = {
        "int8, group 128": converter("int8", 128), "W8A8": w8a8, "int4, group 32": converter("int4", 32),
        "int4, group 128": converter("int4", 128),
    }  # fmt: skip
    return found | {kind: blocks(kind, quantiser) for kind in BLOCKS}


def conversations(count: int) -> tuple[list[list[int]], list[list[bool]]]:
    """Of two to four questions and answers that the embedded model was taught, and which tokens are answers."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    sampler = Sampler(all_items(), seed=1)
    windows: list[list[int]] = []
    counted: list[list[bool]] = []
    for i in range(count):
        ids: list[int] = []
        marks: list[bool] = []
        for part in sampler.talk(2 + i % 3):
            new = tokenizer.encode(part.text, add_special_tokens=False).ids
            ids += new
            marks += [part.learn] * len(new)
        windows.append(ids[:WINDOW])
        counted.append(marks[:WINDOW])
    return windows, counted


def main() -> None:
    parser = argparse.ArgumentParser(description="What inputs of eight bits cost.")
    parser.add_argument("windows", nargs="?", type=int, default=64)
    parser.add_argument("--ggml", default=os.environ.get("PENSTOCK_GGML", ""))
    given = parser.parse_args()
    quantiser = by_ggml(given.ggml) if given.ggml else by_library
    models = {
        "stories260K": Model(shared("assets", "stories260K-llama", "hf"), windows_of(given.windows)),
        "embedded": Model(EMBEDDED, *conversations(given.windows)),
    }
    print("| model | format | logits, largest | logits, mean | perplexity, float | int8 | change |")
    print("|---|---|---|---|---|---|---|")
    for name, model in models.items():
        for case, convert in cases(quantiser).items():
            try:
                plain, count = model.logits(convert, "float")
            except NotImplementedError:
                continue
            if not count:
                continue  # no row of this model fits the blocks
            rounded_inputs, _ = model.logits(convert, "int8")
            error = np.abs(np.concatenate(plain) - np.concatenate(rounded_inputs))
            before, after = model.perplexity(plain), model.perplexity(rounded_inputs)
            print(
                f"| {name} | {case} | {error.max():.3f} | {error.mean():.4f} | {before:.4f} | {after:.4f} "
                f"| {100 * (after / before - 1):+.2f} % |",
                flush=True,
            )
    print()
    print("| model | KV cache | logits, largest | logits, mean | perplexity | change |")
    print("|---|---|---|---|---|---|")
    for name, model in models.items():
        exact, _ = model.logits(as_it_is, "float")
        before = model.perplexity(exact)
        for cache in ("f16", "bf16", "i8"):
            got, _ = model.logits(as_it_is, "float", cache)
            error = np.abs(np.concatenate(exact) - np.concatenate(got))
            after = model.perplexity(got)
            print(
                f"| {name} | {cache} | {error.max():.3f} | {error.mean():.4f} | {after:.4f} "
                f"| {100 * (after / before - 1):+.2f} % |",
                flush=True,
            )
    print()
    stored.table(given.windows)


if __name__ == "__main__":
    main()
