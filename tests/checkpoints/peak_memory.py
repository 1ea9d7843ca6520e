"""Load a checkpoint as a packing consumer does and print, as JSON, what it took. Run as a program of its own.

Resident memory counts what was copied (anonymous) and the file's pages that are mapped, together, at their peak.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from penstock.checkpoints.folder import Checkpoint
from penstock.checkpoints.load import stream_weights
from penstock.checkpoints.source import MappedFile
from penstock.models.program import Program, WeightSpec
from penstock.models.rules import rename, split, stack

RULES = (
    rename("model.embed_tokens.weight", "embed.weight"),
    rename("model.norm.weight", "norm.weight"),
    split("model.layers.{i}.qkv.weight", ("layers.{i}.q.weight", "layers.{i}.k.weight", "layers.{i}.v.weight")),
    rename("model.layers.{i}.mlp.weight", "layers.{i}.mlp.weight"),
    stack("model.experts.{e}.weight", "experts.weight", over="e"),
)


def status(key: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS (resident now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def main(folder: str, specs: str, mode: str) -> None:
    weights = {name: WeightSpec(name, tuple(shape), kind) for name, shape, kind in json.loads(specs)}
    program = Program("peak", (), {}, weights, (), {})
    if mode == "keep":  # the counter-proof: without the release, the file's pages stay
        MappedFile.release = lambda self, start, count: None  # type: ignore[method-assign]
    packed: list[np.ndarray] = []
    with Checkpoint.open(folder) as checkpoint:
        Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
        before = status("VmRSS")
        for _, data in stream_weights(checkpoint, program, RULES):
            packed.extend(array.copy() for array in data.arrays.values())
        peak, after = status("VmHWM"), status("VmRSS")
    held = sum(array.nbytes for array in packed)
    print(
        json.dumps(
            {"weights": held, "peak": peak - before, "after": after - before, "largest": max(a.nbytes for a in packed)}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
