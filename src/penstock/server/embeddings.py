"""Texts to vectors, as the dialects share it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import RequestError
from penstock.frontend import POOLED, embedding
from penstock.server.answers import Answers, Usage
from penstock.server.options import POOLINGS
from penstock.server.prompts import PromptItem, Truncation, encode_prompts
from penstock.server.state import Served, State
from penstock.types import F32

MAX_POOLING_FILE = 1 << 16


@dataclass(frozen=True, slots=True)
class Wish:
    """How vectors are wanted. ``dimensions``: the first so many, scaled to length 1 again."""

    pooling: str | None = None
    normalize: bool = True
    dimensions: int | None = None
    truncation: Truncation | None = None
    add_special_tokens: bool = True


async def embed(
    state: State, served: Served, items: list[PromptItem], wish: Wish, options: dict[str, Any] | None = None
) -> tuple[list[F32], Usage]:
    """A vector [H] for each of ``items``, all computed together."""
    width = served.llm.model.architecture.hidden_size
    if wish.dimensions is not None and not 1 <= wish.dimensions <= width:
        raise RequestError(f"dimensions must be from 1 to {width}, the width of this model", "dimensions")
    kind = wish.pooling or pooling_of(state, served)
    if kind not in POOLINGS[1:]:
        raise RequestError(f"pooling must be one of {', '.join(POOLINGS[1:])}", "pooling")
    prompts = await encode_prompts(
        served.llm, items, add_special_tokens=wish.add_special_tokens, truncation=wish.truncation
    )
    answers = await Answers.submit(served, prompts, POOLED, {**(options or {}), "pooling": kind})
    outputs = await answers.finals()
    found = [np.asarray(embedding(output, normalize=False).outputs.embedding, np.float32) for output in outputs]
    return [_scaled(vector[: wish.dimensions], wish.normalize) for vector in found], answers.usage


def _scaled(vector: NDArray[np.float32], normalize: bool) -> F32:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / length).astype(np.float32) if normalize and length > 0 else vector


def pooling_of(state: State, served: Served) -> str:
    """What the server says, else the checkpoint's ``1_Pooling/config.json`` (sentence-transformers), else ``last``."""
    if state.options.pooling != "auto":
        return state.options.pooling
    known: dict[str, str] = state.shared.setdefault("pooling", {})
    if served.name not in known:
        known[served.name] = _of_checkpoint(served.llm.model.path)
    return known[served.name]


def _of_checkpoint(folder: Path) -> str:
    path = folder / "1_Pooling" / "config.json"
    try:
        if path.stat().st_size > MAX_POOLING_FILE:
            return "last"
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "last"
    return "mean" if isinstance(found, dict) and found.get("pooling_mode_mean_tokens") is True else "last"
