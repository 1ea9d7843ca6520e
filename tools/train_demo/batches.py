"""Packs documents into rows of one length. Documents in a row do not see one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from .documents import Part, Sampler


@dataclass(frozen=True)
class Batch:
    """ids [rows, tokens]; mask additive [rows, 1, tokens, tokens]; learn: flat places whose next token is learned."""

    ids: Tensor
    mask: Tensor
    learn: Tensor
    target: Tensor
    item: np.ndarray


class Packer:
    """Turns documents into batches."""

    def __init__(self, sampler: Sampler, tok: Tokenizer) -> None:
        self.sampler, self.tok = sampler, tok
        self.rough = Tokenizer.from_str(tok.to_str())
        self.rough.model.dropout = 0.08
        self.spare: list[tuple[list[int], list[int]]] = []
        self.late: list[tuple[list[int], list[int]]] = []

    def encode(self, parts: list[Part]) -> tuple[list[int], list[int]]:
        """(ids, marks); a mark is -2 where the token is not learned, else its item or -1."""
        ids: list[int] = []
        marks: list[int] = []
        rough = self.sampler.rng.random() < 0.3
        for part in parts:
            tok = self.rough if rough and part.user else self.tok
            new = tok.encode(part.text, add_special_tokens=False).ids
            ids += new
            marks += [part.item if part.learn else -2] * len(new)
        return ids, marks

    def batch(self, rows: int, tokens: int, draw: Callable[[], list[Part]]) -> Batch:
        """Fills rows greedily; what does not fit waits for the next row, what is too long for a row for longer rows."""
        ids = np.zeros((rows, tokens), np.int64)
        marks = np.full((rows, tokens), -2, np.int64)
        doc = np.zeros((rows, tokens), np.int64)
        for row in range(rows):
            at, n = 0, 1
            misses = 0
            while misses < 4:
                queue = self.late if tokens > 128 else self.spare
                new = queue.pop(0) if len(queue) > (24 if queue is self.spare else 0) else self.encode(draw())
                size = len(new[0])
                if size > 128 >= tokens:
                    self.late.append(new)
                    continue
                if size > tokens:
                    new = (new[0][:tokens], new[1][:tokens])
                    size = tokens
                if at + size > tokens:
                    misses += 1
                    queue.append(new)
                    continue
                ids[row, at : at + size], marks[row, at : at + size], doc[row, at : at + size] = new[0], new[1], n
                at, n = at + size, n + 1
        same = torch.from_numpy((doc[:, :, None] == doc[:, None, :]) & np.tri(tokens, dtype=bool))
        mask = torch.zeros(same.shape, dtype=torch.bfloat16).masked_fill_(~same, float("-inf"))[:, None]
        # Place t learns token t + 1 when both lie in one document.
        good = (marks[:, 1:] != -2) & (doc[:, 1:] == doc[:, :-1])
        flat = np.flatnonzero(np.pad(good, ((0, 0), (0, 1))))
        return Batch(torch.from_numpy(ids), mask, torch.from_numpy(flat),
                     torch.from_numpy(ids.reshape(-1)[flat + 1]), marks.reshape(-1)[flat + 1])  # fmt: skip
