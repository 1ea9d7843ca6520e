"""Never two copies: the peak while a consumer copies every weight is the copies plus one tensor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.checkpoints.files import shard
from tests.helpers import REPOSITORY

MB = 1_000_000
SMALL = 8 * MB  # headers, the plan, the interpreter's own growth, pages at the edges of tensors


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """About 210 MB in two shards: an embedding, fused qkv, MLPs, eight experts of one stack."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("resident memory is read from /proc, which this system lacks")
    random = np.random.default_rng(0)

    def matrix(rows: int, width: int) -> np.ndarray:
        return random.integers(1, 200, (rows, width), dtype=np.uint16).view(ml_dtypes.bfloat16)

    specs: list[tuple[str, list[int], str]] = [("embed.weight", [12_000, 1024], "matrix")]
    first: dict[str, Any] = {"model.embed_tokens.weight": matrix(12_000, 1024)}
    second: dict[str, Any] = {}
    for i in range(8):
        part = first if i < 4 else second
        part[f"model.layers.{i}.qkv.weight"] = matrix(3072, 1024)
        part[f"model.layers.{i}.mlp.weight"] = matrix(6144, 1024)
        specs += [(f"layers.{i}.{x}.weight", [1024, 1024], "matrix") for x in "qkv"]
        specs += [(f"layers.{i}.mlp.weight", [6144, 1024], "matrix")]
    for e in range(8):
        second[f"model.experts.{e}.weight"] = matrix(1024, 1024)
    second["model.norm.weight"] = matrix(1, 1024)[0]
    specs += [("experts.weight", [8, 1024, 1024], "experts"), ("norm.weight", [1024], "vector")]
    return shard(tmp_path_factory.mktemp("peak"), first, second), json.dumps(specs)


def measure(big: tuple[Path, str], mode: str) -> dict[str, int]:
    path, specs = big
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
    program = REPOSITORY / "tests" / "checkpoints" / "peak_memory.py"
    done = subprocess.run(
        [sys.executable, str(program), str(path), specs, mode],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout)
    print({key: f"{value / MB:.1f} MB" for key, value in found.items()}, mode)
    return found


def test_the_peak_is_the_weights_and_one_tensor(big: tuple[Path, str]) -> None:
    found = measure(big, "release")
    assert found["weights"] > 190 * MB
    assert found["peak"] < found["weights"] + found["largest"] + SMALL
    assert found["after"] < found["weights"] + SMALL


def test_without_the_release_there_would_be_two_copies(big: tuple[Path, str]) -> None:
    """The counter-proof: the measure above sees the file's pages."""
    found = measure(big, "keep")
    assert found["peak"] > 1.8 * found["weights"]
