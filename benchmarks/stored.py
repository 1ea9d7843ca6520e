"""What quantised checkpoints cost: stories260K written in every stored form, loaded as users load it, against its plain
weights, and inputs of eight bits against floats. The second table of ``python -m benchmarks.activation``.

Rounded to nearest, without data: what AWQ and GPTQ find out about a model is their maker's to measure.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock import LLM
from tests.harness import Runner
from tests.helpers import shared
from tests.quant.forms import FORMS
from tests.quant.measure import WINDOW, perplexity, windows_of
from tests.quant.written import write_checkpoint

F32 = NDArray[np.float32]
WIDTH = 192
HEAD = (
    "| checkpoint | logits, largest | logits, mean | perplexity | change | int8 inputs: largest | mean | perplexity "
    "| change |"
)


def padded(name: str, w: F32) -> F32:
    """The MLP's 172 rows made 192 with zeros, which changes no logit: AWQ packs eight rows, groups divide inputs."""
    if ".mlp." not in name:
        return w
    rows, inputs = (0, WIDTH - w.shape[1]) if "down_proj" in name else (WIDTH - w.shape[0], 0)
    return np.pad(w, ((0, rows), (0, inputs)))


def logits(folder: Path, windows: list[list[int]], activation: str) -> list[F32]:
    with LLM(
        str(folder), dtype="float32", activation=activation, threads=1, max_model_len=WINDOW, kv_cache_memory=1 << 26
    ) as llm:
        runner = Runner(llm.model.executor)
        return [runner.prefill(window) for window in windows]


def difference(one: list[F32], other: list[F32]) -> str:
    error = np.abs(np.concatenate(one) - np.concatenate(other))
    return f"{error.max():.3f} | {error.mean():.4f}"


def table(count: int) -> None:
    """Print the rows of docs/formats.md, over ``count`` windows of a text."""
    source, windows = shared("assets", "stories260K-llama", "hf"), windows_of(count)
    plain = logits(source, windows, "float")
    before = perplexity(plain, windows)
    print(f"{HEAD}\n{'|---' * 9}|\n| plain | | | {before:.4f} | | | | | |")
    for name, form in FORMS.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write_checkpoint(source, folder, form, change=padded, settings={"intermediate_size": WIDTH})
            floats = logits(folder, windows, "float")
            whole = logits(folder, windows, "int8")
        there, after = perplexity(floats, windows), perplexity(whole, windows)
        if all(map(np.array_equal, floats, whole)):
            costs = "| | | |"
        else:
            costs = f"{difference(floats, whole)} | {after:.4f} | {100 * (after / there - 1):+.2f} % |"
        print(
            f"| {name} | {difference(floats, plain)} | {there:.4f} | {100 * (there / before - 1):+.2f} % | {costs}",
            flush=True,
        )
