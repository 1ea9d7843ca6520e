"""Every instruction set, weight format and cache type against the plain executor."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from penstock import _native
from penstock.executors.torch.executor import TorchExecutor
from penstock.models.decoder import build
from tests.executors.native.some import IDS, NAMES, runner, weights
from tests.harness import F32, Runner, limits
from tests.models.some import ARCHITECTURES

ISAS = _native.possible_isas()


def plain(name: str, fmt: str, **changes: Any) -> F32:
    program = build(ARCHITECTURES[name])
    executor = TorchExecutor(program, replace(limits(blocks=24), **changes), threads=1)
    executor.load(weights(program, fmt))
    return Runner(executor, ARCHITECTURES[name].position_channels).prefill(IDS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture(name: str, isa: str) -> None:
    got = runner(name, isa=isa, threads=2).prefill(IDS, [6, 5])
    np.testing.assert_allclose(got, plain(name, "f32"), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("isa", "fmt"), list(product(ISAS, ("f16", "bf16"))))
def test_weight_formats_with_exact_inputs(isa: str, fmt: str) -> None:
    """compute f32: the weights as they are, activations never rounded."""
    got = runner("biases", fmt, isa=isa, compute="f32").prefill(IDS)
    np.testing.assert_allclose(got, plain("biases", fmt), rtol=2e-5, atol=2e-5)


def test_rounded_inputs_stay_close() -> None:
    got = runner("biases", "bf16", compute="auto").prefill(IDS)
    want = plain("biases", "bf16")
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


@pytest.mark.parametrize(("isa", "kv"), list(product(ISAS, ("f16", "bf16", "i8"))))
def test_cache_types(isa: str, kv: str) -> None:
    """A cache of bf16 is met by bf16 dot products: queries and softmax weights are rounded too. One of bytes is met by
    queries of bytes."""
    got = runner("window", isa=isa, kv_dtype=kv).prefill(IDS, [5])
    off = {"f16": 1e-4, "bf16": 2e-3, "i8": 1e-2}[kv]
    np.testing.assert_allclose(got, plain("window", "f32", kv_dtype=kv), rtol=1e-4, atol=off)
