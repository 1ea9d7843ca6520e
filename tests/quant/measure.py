"""What each format costs in accuracy: logits and perplexity of a trained model against its plain weights.

    python -m tests.quant.measure [windows]

Prints the table of docs/formats.md: the stories260K model over the first windows of 256 tokens of tinystories.txt, on
the plain executor, so that nothing but the weights differs. ``weights`` is the root mean square of what changed in the
weights, by theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.models.decoder import build
from penstock.models.program import WeightSpec
from penstock.models.registry import resolve
from penstock.quant.formats import BLOCKS
from penstock.quant.onthefly import Convert, converter, error_of
from penstock.quant.rounding import rounded
from penstock.quant.scheme import WeightData
from tests.harness import Runner, executor_class, limits
from tests.helpers import shared

WINDOW = 256


def blocks(kind: str) -> Convert:
    """The library's quantiser, for comparison; rows that its blocks do not divide stay as they are."""
    import gguf

    def convert(spec: WeightSpec, data: WeightData) -> WeightData:
        if spec.kind != "matrix" or data.shape[-1] % BLOCKS[kind].elements:
            return data
        raw = gguf.quantize(np.asarray(data.arrays["weight"], np.float32), gguf.GGMLQuantizationType[kind.upper()])
        return WeightData(kind, data.shape, {"blocks": raw})

    return convert


def bytes_of(data: WeightData) -> int:
    """As an executor packs them: scales and zero points in float16 where that holds them."""
    half = all(
        np.array_equal(a, a.astype(np.float16)) for role, a in data.arrays.items() if role in ("scales", "zeros")
    )
    return sum(a.nbytes // (2 if half and role in ("scales", "zeros") else 1) for role, a in data.arrays.items())


class Measured:
    """Weights as ``convert`` makes them, their error and size, and a runner of them."""

    def __init__(self, folder: Path, convert: Convert | None) -> None:
        with Checkpoint.open(folder) as checkpoint:
            family = resolve(checkpoint.config)
            architecture = family.architecture(checkpoint.config)
            rules = family.rules(architecture, checkpoint.config)
            self.program = build(architecture)
            self.errors: list[float] = []
            self.nbytes = self.numbers = 0
            executor = executor_class("torch")(self.program, limits(), compute="f32", threads=1, isa=None)
            executor.load(self._counted(stream_weights(checkpoint, self.program, rules), convert))
            self.runner = Runner(executor)

    def _counted(
        self, stream: Iterator[tuple[WeightSpec, WeightData]], convert: Convert | None
    ) -> Iterator[tuple[WeightSpec, WeightData]]:
        for spec, data in stream:
            made = data if convert is None else rounded(convert(spec, data))
            if made is not data:
                self.errors.append(error_of(data, made))
                self.nbytes += bytes_of(made)
                self.numbers += int(np.prod(made.shape))
            yield spec, made

    def logits(self, windows: list[list[int]]) -> list[NDArray[np.float32]]:
        return [self.runner.prefill(window) for window in windows]


def perplexity(
    logits: list[NDArray[np.float32]], windows: list[list[int]], counted: list[list[bool]] | None = None
) -> float:
    """Of all tokens but the first ones, or of those that ``counted`` marks."""
    losses = []
    for rows, ids, marks in zip(logits, windows, counted or [[True] * len(ids) for ids in windows], strict=True):
        rows = rows[:-1].astype(np.float64)
        top = rows.max(axis=1)
        total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
        losses.append((total - rows[np.arange(len(ids) - 1), ids[1:]])[np.array(marks[1:])])
    return float(np.exp(np.concatenate(losses).mean()))


def windows_of(count: int) -> list[list[int]]:
    import sentencepiece

    model = shared("assets", "stories260K-llama", "hf", "tokenizer.model")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model))
    text = shared("assets", "text", "tinystories.txt").read_text(encoding="utf-8")[: count * WINDOW * 5]
    ids = tokenizer.encode(text)
    return [[1, *ids[at : at + WINDOW - 1]] for at in range(0, count * (WINDOW - 1), WINDOW - 1)]


def main() -> None:
    folder = shared("assets", "stories260K-llama", "hf")
    windows = windows_of(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
    plain = Measured(folder, None).logits(windows)
    before = perplexity(plain, windows)
    print(f"{sum(map(len, windows))} tokens; plain weights: perplexity {before:.4f}")
    cases: dict[str, Convert] = {f"int8, group {g}": converter("int8", g) for g in (32, 64, 128)}
    cases |= {f"int4, group {g}": converter("int4", g) for g in (32, 64, 128)}
    cases |= {kind: blocks(kind) for kind in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")}
    print("| format | bits a weight | weights | logits, largest | logits, mean | perplexity | change |")
    print("|---|---|---|---|---|---|---|")
    for name, convert in cases.items():
        model = Measured(folder, convert)
        logits = model.logits(windows)
        change = np.abs(np.concatenate(logits) - np.concatenate(plain))
        after = perplexity(logits, windows)
        print(
            f"| {name} | {8 * model.nbytes / model.numbers:.2f} | {np.mean(model.errors):.5f} | {change.max():.3f} "
            f"| {change.mean():.4f} | {after:.4f} | {100 * (after / before - 1):+.2f} % |"
        )


if __name__ == "__main__":
    main()
