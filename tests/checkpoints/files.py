"""Small checkpoints made by hand, so that tests can make them wrong as well."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from penstock.checkpoints.safetensors import DTYPES
from penstock.models.program import Program, WeightSpec

CODES = {dtype: code for code, dtype in DTYPES.items()}


def header_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    header: dict[str, Any] = {}
    offset = 0
    for name, array in tensors.items():
        offsets = [offset, offset + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        offset += array.nbytes
    return header


def pack(header: Any, data: bytes) -> bytes:
    """A file with any header (text, bytes or JSON data) before any data."""
    if not isinstance(header, bytes):
        header = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(header)) + header + data


def encode(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    header = header_of(tensors)
    if metadata is not None:
        header = {"__metadata__": dict(metadata), **header}
    text = json.dumps(header)
    return pack(text + " " * (-len(text) % 8), b"".join(array.tobytes() for array in tensors.values()))


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    path.write_bytes(encode(tensors))
    return path


def some_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """One tensor of each dtype, some empty, one scalar."""
    random = np.random.default_rng(seed)
    tensors = {f"t.{code}": random.integers(0, 2, (3, 4)).astype(dtype) for code, dtype in DTYPES.items()}
    tensors["scalar"] = np.array(2.5, np.float32)
    tensors["empty"] = np.empty((0, 7), ml_dtypes.bfloat16)
    return tensors


def program(**shapes: tuple[int, ...]) -> Program:
    """A program of weights only; ``__`` in a name is a dot."""
    specs = {}
    for key, shape in shapes.items():
        name = key.replace("__", ".")
        specs[name] = WeightSpec(name, shape, {1: "vector", 2: "matrix", 3: "experts"}[len(shape)])  # type: ignore[arg-type]
    return Program("test", (), {}, specs, (), {})


def folder(path: Path, tensors: Mapping[str, np.ndarray] | None = None, config: Any = None) -> Path:
    """An HF folder."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))
    if tensors is not None:
        write(path / "model.safetensors", tensors)
    return path


def shard(path: Path, *parts: Mapping[str, np.ndarray]) -> Path:
    """An HF folder in several shards with an index."""
    folder(path)
    files = [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    mapping = {name: file for file, part in zip(files, parts) for name in part}
    for file, part in zip(files, parts):
        write(path / file, part)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    return path
