"""Prefixes: keys and values (prefix-tuning, P-Tuning v2), or embeddings, that stand before a request's tokens.

All tables of keys and values are laid out alike: a row is a virtual token, in it each layer's keys, then its values::

    [k of layer 0 | v of layer 0 | k of layer 1 | …]      each kv_heads * head_dim wide

Li and Liang 2021 (arXiv 2101.00190), Liu et al. 2021 (2110.07602), Lester et al. 2021 (2104.08691).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.checkpoints.adapters import MAX_BYTES, MAX_ROWS, PrefixAdapter, PromptAdapter, floats
from penstock.checkpoints.source import WeightSource, damaged, shown, some
from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.program import Program
from penstock.types import F32

PEFT_KEY = "prompt_embeddings"


def read_peft(
    source: WeightSource, config: Mapping[str, Any], folder: Path, program: Program
) -> PrefixAdapter | PromptAdapter:
    """PREFIX_TUNING, PROMPT_TUNING or P_TUNING. Positions of the tokens count the prefix."""
    if config.get("num_transformer_submodules", 1) not in (1, None):
        raise UnsupportedError(f"{folder}: num_transformer_submodules is not 1: this adapter is for encoder-decoders")
    names = source.names()
    if PEFT_KEY in names:
        table = _matrix(source, PEFT_KEY)
        spare = [name for name in names if name != PEFT_KEY]
    else:
        table, spare = _projected(source, "transform", folder)
    if spare:
        raise UnsupportedError(f"{folder}: these tensors are not supported: {some(spare, 6)}")
    rows = config.get("num_virtual_tokens")
    if rows is not None and rows != len(table):
        raise CheckpointError(f"{folder}: num_virtual_tokens is {shown(str(rows), 20)}, but the file has {len(table)}")
    if config.get("peft_type") == "PREFIX_TUNING":
        return PrefixAdapter(_layers(table, program, folder), shifts=True)
    width = program.weights["embed.weight"].shape[1]
    if table.shape[1] != width:
        raise CheckpointError(
            f"{folder}: embeddings of {table.shape[1]} elements, but the model's have {width}: the adapter belongs to "
            "another base model"
        )
    return PromptAdapter(table)


def read_chatglm(source: WeightSource, settings: Mapping[str, Any], folder: Path, program: Program) -> PrefixAdapter:
    """ChatGLM's ``prefix_encoder``; positions of the tokens begin at 0 all the same."""
    table, _ = _projected(source, "trans", folder)
    declared = settings.get("pre_seq_len")
    if declared is not None and declared != len(table):
        raise CheckpointError(
            f"{folder}: pre_seq_len is {shown(str(declared), 20)}, but the file has {len(table)} rows"
        )
    return PrefixAdapter(_layers(table, program, folder), shifts=False)


def read_pre_caches(file: Path, program: Program) -> PrefixAdapter:
    """PaddleNLP's ``pre_caches.npy``: [layers, 2, batch, heads, prefix, head_dim], every member of the batch alike."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(file, f"it cannot be read ({shown(str(error), 80)})") from error
    if not isinstance(found, np.ndarray) or found.ndim != 6 or found.dtype.kind != "f" or not found.size:
        raise CheckpointError(f"{file}: not an array [layers, 2, batch, heads, prefix, head_dim] of floating point")
    if found.nbytes > MAX_BYTES:
        raise CheckpointError(f"{file}: {found.nbytes:,} bytes are too many for a prefix")
    layers, two, batch, heads, rows, dim = found.shape
    if len({(kv.kv_heads, kv.head_dim) for kv in program.kv}) != 1 or (layers, two, heads, dim) != (
        len(program.kv), 2, program.kv[0].kv_heads, program.kv[0].head_dim,
    ):  # fmt: skip
        raise CheckpointError(
            f"{file}: {list(found.shape)} does not fit the model's {len(program.kv)} layers of "
            f"{program.kv[0].kv_heads} heads of {program.kv[0].head_dim}: it belongs to another base model"
        )
    if batch > 1 and not (found == found[:, :, :1]).all():
        raise UnsupportedError(f"{file}: a prefix for each of {batch} members of a batch; save one alone")
    _check_rows(rows, str(file))
    flat: F32 = np.array(found[:, :, 0].swapaxes(2, 3), np.float32, order="C").reshape(layers, 2, rows, heads * dim)
    if not np.isfinite(flat).all():
        raise CheckpointError(f"{file}: it has numbers that are not finite")
    return PrefixAdapter(tuple((pair[0], pair[1]) for pair in flat), shifts=None)


def _projected(source: WeightSource, mlp: str, folder: Path) -> tuple[F32, list[str]]:
    """The table, through its network (linear, tanh, linear) if it has one; and the names that are not part of it.

    The tensors say whether there is a network; a configuration's ``prefix_projection`` has been seen to be wrong.
    """
    ends = ["embedding.weight", *(f"{mlp}.{i}.{part}" for i in (0, 2) for part in ("weight", "bias"))]
    found: dict[str, str] = {}
    for name in source.names():
        for end in ends:
            if name.endswith(f".{end}") and ("prefix_encoder." in name or "prompt_encoder." in name):
                found[end] = name
    if "embedding.weight" not in found:
        raise CheckpointError(f"{folder}: no {PEFT_KEY} and no prefix encoder in the file; it is incomplete")
    table = _matrix(source, found["embedding.weight"])
    spare = [name for name in source.names() if name not in found.values()]
    if len(found) == 1:
        return table, spare
    absent = [end for end in ends if end not in found]
    if absent:
        raise CheckpointError(f"{folder}: the prefix's projection lacks {some(absent, 4)}; the file is incomplete")
    for i in (0, 2):
        weight, bias = _matrix(source, found[f"{mlp}.{i}.weight"]), floats(source, found[f"{mlp}.{i}.bias"])
        if weight.shape[1] != table.shape[1] or bias.shape != weight.shape[:1]:
            raise CheckpointError(f"{folder}: the prefix's projection has shapes that do not fit together")
        table = table @ weight.T + bias
        table = np.tanh(table) if i == 0 else table
    return table, spare


def _matrix(source: WeightSource, name: str) -> F32:
    shape = source.info(name).shape
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{source.info(name).file}: {shown(name)} is {list(shape)}, not a matrix")
    return floats(source, name)


def _layers(table: F32, program: Program, folder: Path) -> tuple[tuple[F32, F32], ...]:
    """Cut each row into the layers' keys and values."""
    _check_rows(len(table), str(folder))
    widths = [kv.kv_heads * kv.head_dim for kv in program.kv]
    if table.shape[1] != 2 * sum(widths):
        raise CheckpointError(
            f"{folder}: a prefix of {table.shape[1]} numbers a token, but the model's {len(widths)} layers keep "
            f"{2 * sum(widths)}: it belongs to another base model"
        )
    layers = []
    start = 0
    for width in widths:
        layers.append((table[:, start : start + width].copy(), table[:, start + width : start + 2 * width].copy()))
        start += 2 * width
    return tuple(layers)


def _check_rows(rows: int, where: str) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise CheckpointError(f"{where}: a prefix of {rows} tokens; it must have from 1 to {MAX_ROWS}")
