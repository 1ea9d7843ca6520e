"""What a request must be before it is queued: every way in which it can never be served is told here, with numbers."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from penstock.engine.batch import Positions, plain_positions
from penstock.engine.sequence import bit_mask
from penstock.errors import ContextLengthError, RequestError
from penstock.types import U32, SamplingParams


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the engine must know of a model.

    ``length_key`` tells prompt lengths apart whose cached keys differ. ``positions`` gives a sequence's position rows;
    ``boundary`` how many rows of a prompt all see each other (prefix LM): such prompts are never split or shared.
    ``recompute_past``: a sequence that grows past so many tokens is computed anew, with ``length_key`` of a longer one.
    """

    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int] = frozenset()
    length_key: Callable[[int], int] = lambda prompt_len: 0
    positions: Positions = plain_positions
    boundary: Callable[[Seq[int]], int] | None = None
    recompute_past: int | None = None

    @property
    def whole_prompts(self) -> bool:
        return self.boundary is not None


def check_prompt(prompt: Seq[int], facts: ModelFacts) -> list[int]:
    """The prompt as a list of token ids of the vocabulary; at least one."""
    tokens = [int(t) for t in prompt]
    if not tokens:
        raise RequestError("the prompt is empty: give at least one token", "prompt")
    _check_ids("prompt", tokens, facts.vocab_size)
    return tokens


def max_tokens(prompt_len: int, params: SamplingParams, longest: int, cache_tokens: int) -> int:
    """How many tokens the request may generate within a context of ``longest`` and a cache of ``cache_tokens``.

    Raises ``ContextLengthError`` if they can never hold it.
    """
    room = longest - prompt_len
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {prompt_len} tokens, but the context is {longest} and one must be left to generate: "
            "shorten the prompt or raise max_model_len",
            "prompt",
        )
    if params.max_tokens is not None and params.max_tokens > room:
        raise ContextLengthError(
            f"prompt ({prompt_len} tokens) plus max_tokens ({params.max_tokens}) is {prompt_len + params.max_tokens}, "
            f"more than the context of {longest}: lower max_tokens to {room} or raise max_model_len",
            "max_tokens",
        )
    # The last token drawn is never stored.
    in_cache = cache_tokens + 1 - prompt_len
    if in_cache < 1 or (params.max_tokens or 1) > in_cache:
        raise ContextLengthError(
            f"prompt ({prompt_len} tokens) plus max_tokens ({params.max_tokens or 1}) do not fit the KV cache of "
            f"{cache_tokens} tokens: raise kv_cache_memory or lower max_tokens",
            "max_tokens",
        )
    return min(room, in_cache, params.max_tokens or room)


def cache_room(blocks: int, block_size: int, lead: int, prompt_len: int, width: int) -> int:
    """Tokens behind ``lead`` rows that a cache of ``blocks`` holds for each of ``width`` beams, which all must fit at
    once and share only the prompt's full blocks in the worst case."""
    together = min(blocks, (lead + prompt_len) // block_size) if width > 1 else 0
    return (together + (blocks - together) // width) * block_size - lead


def allowed_mask(params: SamplingParams, facts: ModelFacts) -> U32 | None:
    """The bit mask of ``allowed_token_ids``, and a check of every id that must lie in the vocabulary."""
    _check_ids("logit_bias", list(params.logit_bias or ()), facts.vocab_size)
    _check_ids("logprob_token_ids", params.logprob_token_ids or (), facts.vocab_size)
    if params.allowed_token_ids is None:
        return None
    _check_ids("allowed_token_ids", params.allowed_token_ids, facts.vocab_size)
    return bit_mask(params.allowed_token_ids, facts.vocab_size)


def _check_ids(name: str, ids: Seq[int], vocab_size: int) -> None:
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        bad = min(ids) if min(ids) < 0 else max(ids)
        raise RequestError(f"{name}: token id {bad} is outside the vocabulary of {vocab_size}", name)
