"""Output projections: quantised, tied, tied and quantised at load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.models.program import Program, WeightSpec
from penstock.models.rules import rename
from penstock.quant.dequantise import dequantise
from penstock.quant.detect import detect
from tests.checkpoints.test_rules import Memory
from tests.quant.test_schemes import awq, gptq

RULES = (rename("embed.weight", "embed.weight"), rename("lm_head.weight", "head.weight", tied_to="embed.weight"))
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "lm_head": True}}
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}


def weights(tensors: dict[str, Any], config: dict[str, Any], tied: bool = False, wish: str | None = None) -> Any:
    source = Memory(**{name.replace(".", "__"): array for name, array in tensors.items()})
    embed = WeightSpec("embed.weight", (32, 64), "matrix" if tied else "table")
    specs = {s.name: s for s in (embed, *([] if tied else [WeightSpec("head.weight", (32, 64), "matrix")]))}
    found = detect(config, source, wish)
    checkpoint = Checkpoint(Path(), config, {}, source)
    program = Program("test", (), {}, specs, (), {})
    return {s.name: d for s, d in stream_weights(checkpoint, program, RULES, found.scheme_for, convert=found.convert)}


@pytest.mark.parametrize(("make", "config"), [(lambda: gptq(32, 64, 4, 32), GPTQ), (lambda: awq(32, 64, 32), AWQ)])
def test_a_quantised_head_beside_plain_embeddings(make: Any, config: dict[str, Any]) -> None:
    parts, expected = make()
    table = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float16)
    found = weights({"embed.weight": table, **{f"lm_head.{p}": a for p, a in parts.items()}}, config)
    assert found["embed.weight"].format == "f16"
    assert np.array_equal(dequantise(found["head.weight"]), expected)


def test_a_tied_head_made_int8_is_one_weight() -> None:
    table = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    found = weights({"embed.weight": table}, {}, tied=True, wish="int4")
    assert list(found) == ["embed.weight"]
    assert found["embed.weight"].format == "int8"
    assert weights({"embed.weight": table, "lm_head.weight": table}, {}, tied=True)["embed.weight"].format == "f32"
    untied = weights({"embed.weight": table, "lm_head.weight": table}, {}, wish="int8")
    assert [untied[name].format for name in ("embed.weight", "head.weight")] == ["f32", "int8"]
