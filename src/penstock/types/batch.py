"""One step: what an executor is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.types.common import F32, I32, I64, U8, U32, U64


class Constraint(Protocol):
    """What one answer may continue with (structured output). The engine holds one an answer and copies it on a fork."""

    def mask(self) -> U32:
        """[ceil(vocab / 32)] bits of the tokens that may come next; end tokens where the answer may end.

        Called in a thread beside the one that calls the others, never at the same time. Raises ``ExecutionError`` if
        the answer cannot go on.
        """

    def accept(self, token: int) -> None:
        """``token``, one of those allowed, was drawn. Raises ``ExecutionError`` if it cannot be taken."""

    def copy(self) -> Constraint:
        """An independent constraint in the same state."""


@dataclass(slots=True)
class SamplingBatch:
    """One entry per token wanted of a step (N entries; several may read one row, as ``n`` answers of one prompt do).

    ``target`` -1 draws a token; otherwise that token is scored (prompt logprobs). ``seed``/``draw``: the random number
    is a function of both alone. History, bias and mask are flat lists indexed by ``*_start`` [N+1]; histories hold each
    distinct token once: ``history_counts`` how often it was put out, ``history_prompt`` whether the prompt has it.
    ``masks`` are bit masks over the vocabulary (bit set: allowed), ``mask_row`` -1 where an entry has none. They may
    be filled while the step runs: whoever reads them calls ``ready`` first, which returns when they are there.
    """

    row: I32
    target: I32
    temperature: F32
    top_k: I32
    top_p: F32
    min_p: F32
    typical_p: F32
    repetition: F32
    presence: F32
    frequency: F32
    seed: U64
    draw: I64
    num_logprobs: I32
    history_start: I32
    history_ids: I32
    history_counts: I32
    history_prompt: U8
    bias_start: I32
    bias_ids: I32
    bias_values: F32
    mask_row: I32
    masks: U32
    ready: Callable[[], object] | None = None


@dataclass(slots=True)
class Batch:
    """One step for an executor. T tokens of S sequences, flattened in sequence order.

        tokens      |<---- seq 0 ---->|<-- seq 1 -->| ...      query_start = [0, q0, q0+q1, ...]
        cache       seq s holds context_lens[s] rows, this step's rows included (they are the last ones);
                    its row j lies in block block_tables[s, j // block_size] at j % block_size

    ``token_ids`` [T]; ``positions`` [channels, T] feed position embeddings and are not cache rows (prefixes,
    ChatGLM-6B); ``slots`` [T] = block * block_size + offset, where to store each token's key and value;
    ``prompt_lens`` [S] for length-dependent rotary scaling; ``bidirectional`` [S] cache rows before this boundary are
    seen by all of them (0: causal); ``adapters`` [S] adapter slot, 0 none; ``logits_rows`` [R] tokens whose logits are
    wanted; ``block_copies`` [C, 2] (from, to) copied before the step, in order (copy-on-write forks); ``embeds`` [T, H]
    takes the place of what the token ids would be embedded as (prompt tuning). The next step may come in the same
    arrays, filled anew: who wants to keep one copies it.
    """

    token_ids: I32
    positions: I32
    slots: I64
    query_start: I32
    context_lens: I32
    block_tables: I32
    prompt_lens: I32
    logits_rows: I32
    sampling: SamplingBatch | None = None
    bidirectional: I32 | None = None
    adapters: I32 | None = None
    block_copies: I32 | None = None
    embeds: F32 | None = None
    return_logits: bool = False
    return_hidden: bool = False

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_seqs(self) -> int:
        return int(self.context_lens.shape[0])


@dataclass(slots=True)
class StepOutput:
    """What a step gives: N sampled (or scored) entries, in the order of ``Batch.sampling``.

    ``logprobs`` [N], ``ranks`` [N] (1 is the most likely), ``top_ids``/``top_logprobs`` [N, K] with K the largest
    ``num_logprobs`` asked (unused places -1 / -inf), all of the raw distribution; None where no entry asked.
    ``invalid`` [N] is 1 where the row's logits are not finite. ``logits`` [R, V] and ``hidden`` [T, H] on demand.
    """

    token_ids: I32
    invalid: U8
    logprobs: F32 | None = None
    ranks: I32 | None = None
    top_ids: I32 | None = None
    top_logprobs: F32 | None = None
    logits: F32 | None = None
    hidden: F32 | None = None
