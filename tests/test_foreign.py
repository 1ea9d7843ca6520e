"""Names that other engines have for options: taken where they change nothing, refused where they would."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.config import from_kwargs
from penstock.errors import ConfigError
from penstock.foreign import HARMLESS, ONLY, SYNONYMS


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1},
        {"enable_expert_parallel": False, "disable_mm_preprocessor_cache": True},
        {"swap_space": 4, "cpu_offload_gb": 0, "enforce_eager": True, "disable_custom_all_reduce": True},
        {"attn_implementation": "flash_attention_2"}, {"attn_implementation": "eager"}, {"attn_implementation": None},
        {"load_format": "auto", "tokenizer_mode": "slow", "tokenizer_revision": "main", "task": "generate"},
        {"speculative_config": None, "rope_scaling": None, "scheduling_policy": "FCFS"},
        {"override_generation_config": {}},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_taken(options: dict[str, Any]) -> None:
    assert from_kwargs(options) == from_kwargs({})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tensor_parallel_size": 8}, "one device, others are not there yet"),
        ({"data_parallel_size": 2}, "one device"), ({"attn_implementation": "flash_attention_9"}, "sdpa"),
        ({"load_format": "dummy"}, "must be auto"), ({"rope_scaling": {"type": "linear"}}, "hf_overrides"),
        ({"speculative_config": {"method": "ngram"}}, "speculative decoding is not there yet"),
        ({"load_in_8bit": True}, "quantization='int8'"), ({"device": "cuda:0"}, "GPU is not there yet"),
        ({"device": 0}, "GPU is not there yet"), ({"enable_sleep_mode": True}, "not there yet"),
    ],
)  # fmt: skip
def test_what_asks_for_more_is_refused_with_a_remedy(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        from_kwargs(options)


def test_the_cpu_by_its_other_names() -> None:
    for name in ("cpu", "CPU", -1):
        assert from_kwargs({"device": name}).executor.executor == "native"


def test_no_name_is_in_two_tables() -> None:
    assert not set(HARMLESS) & set(ONLY)
    assert not {*HARMLESS, *ONLY} & set(SYNONYMS)
