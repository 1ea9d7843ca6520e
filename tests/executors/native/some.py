"""Small models on the native executor, with random weights of any dense format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from penstock.executors.native.executor import NativeExecutor
from penstock.models.decoder import build
from penstock.models.program import Program, WeightSpec
from penstock.quant.scheme import WeightData
from penstock.types import Batch
from tests.harness import Runner, limits, sampling
from tests.models.some import ARCHITECTURES

IDS = [3, 17, 4, 4, 29, 0, 11, 8, 9, 21, 5, 5, 2, 28, 1, 0, 7, 13, 22, 6]
NAMES = list(ARCHITECTURES)
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def weights(program: Program, fmt: str = "f32", seed: int = 0) -> Iterator[tuple[WeightSpec, WeightData]]:
    rng = np.random.default_rng(seed)
    for spec in program.weights.values():
        array = (rng.standard_normal(spec.shape) * 0.3).astype(DTYPES["f32" if spec.kind == "vector" else fmt])
        yield spec, WeightData("f32" if spec.kind == "vector" else fmt, spec.shape, {"weight": array})


def executor(name: str = "llama", fmt: str = "f32", **options: Any) -> NativeExecutor:
    """Options are those of the executor, or fields of ``Limits``."""
    program = build(ARCHITECTURES[name])
    own = {k: options.pop(k) for k in ("compute", "threads", "isa", "mode") if k in options}
    made = NativeExecutor(program, replace(limits(blocks=24), **options), **{"threads": 1, **own})
    made.load(weights(program, fmt))
    return made


def runner(name: str = "llama", fmt: str = "f32", **options: Any) -> Runner:
    return Runner(executor(name, fmt, **options), ARCHITECTURES[name].position_channels)


def good(run: Runner) -> Batch:
    """A sound step of two sequences that samples two tokens."""
    return run.batch([(run.add(IDS), 5), (run.add(IDS), 3)], sampling=sampling([0, 7], 30))
