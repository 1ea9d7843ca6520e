"""Which tokens end an answer: the union of all places that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.errors import CheckpointError
from penstock.text.tokenizer import Tokenizer

# End-of-turn tokens of the chat formats in use. Each counts only where the vocabulary has it as a control token.
END_OF_TURN = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
    "<|end_of_turn|>", "<|return|>", "<|call|>", "<|eot|>", "<eop>", "<｜end▁of▁sentence｜>",
    "</s>", "<eos>",
)  # fmt: skip
# ChatGLM ends its turn by opening the next: of the user, or of a tool that is to be observed.
CHATGLM_NEXT_TURN = ("<|user|>", "<|observation|>")


def stop_ids(
    tokenizer: Tokenizer | None,
    generation_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> frozenset[int]:
    """Ids that end generation: both configs' ``eos_token_id``, the tokenizer's own, and end-of-turn tokens.

    ``tokenizer`` may be ``None`` (a checkpoint served by token ids). Raises CheckpointError for an id that is no id.
    """
    found: set[int] = set()
    for source, values in (("generation_config.json", generation_config), ("config.json", config)):
        found |= _ids(source, (values or {}).get("eos_token_id"))
    found |= {ids[0] for ids in _stop_words(generation_config) if len(ids) == 1}
    if tokenizer is not None:
        found |= tokenizer.eos_ids
        control = tokenizer.control_texts
        words = END_OF_TURN + (CHATGLM_NEXT_TURN if "[gMASK]" in control else ())
        found |= {control[word] for word in words if word in control}
    return frozenset(found)


def _ids(source: str, value: Any) -> set[int]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    for entry in values:
        if isinstance(entry, bool) or not isinstance(entry, int) or not -1 <= entry < 1 << 31:
            raise CheckpointError(f"{source}: eos_token_id is {value!r}, expected a token id or a list of them")
    return {entry for entry in values if entry >= 0}


def _stop_words(generation_config: Mapping[str, Any] | None) -> list[list[int]]:
    """``stop_words_ids`` of Qwen-1: sequences of ids."""
    value = (generation_config or {}).get("stop_words_ids")
    words = value if isinstance(value, list) else []
    return [word for word in words if isinstance(word, list) and all(type(i) is int and i >= 0 for i in word)]
