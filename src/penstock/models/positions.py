"""The positions that tokens have (``Batch.positions``), and how far a prompt is seen in both directions.

Every family counts 0, 1, 2 …, but ChatGLM-6B, whose prompts read ``context … [gMASK] <bos> answer …``::

    channel 0    0 1 2 … m … b-1   m m m …        m: where [gMASK] stands (or, without one, [MASK])
    channel 1    0 0 0 … 0 … 0     1 2 3 …        b: where <bos> stands
    seen by all of the context: rows before b

Source: ``modeling_chatglm.py`` of ChatGLM-6B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.errors import RequestError
from penstock.models.architecture import Architecture
from penstock.types import I32


def token_positions(arch: Architecture, prompt: Sequence[int], start: int, end: int) -> I32:
    """Positions [channels, end - start] of the tokens ``start:end`` of a sequence that begins with ``prompt``.

    Raises ``RequestError`` for a ChatGLM-6B prompt without its special tokens.
    """
    rows = np.arange(start, end, dtype=np.int32)
    if arch.position_tokens is None:
        return np.tile(rows, (arch.position_channels, 1))
    mask, bos = _marks(arch, prompt)
    return np.stack([np.where(rows < bos, rows, mask), np.maximum(rows - bos + 1, 0)]).astype(np.int32)


def bidirectional_boundary(arch: Architecture, prompt: Sequence[int]) -> int:
    """How many of the prompt's rows all see each other (``Batch.bidirectional``); 0 where a token sees only its past.

    Those rows must be computed in one step, and shared only with sequences that have all of them.
    """
    return 0 if arch.position_tokens is None else _marks(arch, prompt)[1]


def _marks(arch: Architecture, prompt: Sequence[int]) -> tuple[int, int]:
    """Where the mask token and <bos> stand."""
    tokens, ids = arch.position_tokens, list(prompt)
    assert tokens is not None
    mask = tokens.gmask if tokens.gmask in ids else tokens.mask
    if mask not in ids or tokens.bos not in ids:
        raise RequestError(
            f"a prompt of this model must hold [gMASK] ({tokens.gmask}) or [MASK] ({tokens.mask}), and <bos> "
            f"({tokens.bos}); its tokenizer appends [gMASK] <bos>",
            "prompt",
        )
    return ids.index(mask), ids.index(tokens.bos)
