"""Which family reads a configuration. Families are imported when asked for, one file each."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, cast

from penstock.errors import CheckpointError, UnsupportedError
from penstock.models.family import Family
from penstock.models.reading import FieldsError, class_names

FILES: dict[str, str] = {
    "baichuan": "baichuan",
    "bloom": "bloom",
    "chatglm": "chatglm",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3_text",
    "glm": "glm",
    "glm4": "glm",
    "gpt2": "gpt2",
    "gpt_neo": "gpt_neo",
    "gpt_neox": "gpt_neox",
    "gptj": "gptj",
    "internlm2": "internlm2",
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "opt": "opt",
    "phi3": "phi3",
    "qwen": "qwen",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
    "stablelm": "stablelm",
    "stablelm_epoch": "stablelm",
}
"""model_type -> file in ``families/``."""

CLASSES: dict[str, str] = {
    "BaiChuanForCausalLM": "baichuan",
    "BaichuanForCausalLM": "baichuan",
    "BloomForCausalLM": "bloom",
    "ChatGLMModel": "chatglm",
    "GPT2LMHeadModel": "gpt2",
    "GPTJForCausalLM": "gptj",
    "GPTNeoForCausalLM": "gpt_neo",
    "GPTNeoXForCausalLM": "gpt_neox",
    "GemmaForCausalLM": "gemma",
    "InternLM2ForCausalLM": "internlm2",
    "LLaMAForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "OPTForCausalLM": "opt",
    "QWenLMHeadModel": "qwen",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Class in ``architectures`` -> model_type, for configurations without a model_type."""

ALIKE = 0.6


def resolve(config: Mapping[str, Any]) -> Family:
    """The family of ``config``. Raises ``UnsupportedError`` naming the nearest one and how it differs."""
    if "gguf" in config:  # made of a GGUF file's metadata
        from penstock.models import gguf

        return gguf.family_of(config, resolve)
    name = config.get("model_type")
    if name is None:
        classes = [name for name in class_names(config) if name in CLASSES]
        if not classes:
            raise CheckpointError("config.json has no model_type; is this the folder of a language model?")
        name = CLASSES[classes[0]]
    if isinstance(name, str) and name in FILES:
        return family(FILES[name])
    raise UnsupportedError(_unknown(str(name)[:80], config))


def family(file: str) -> Family:
    """The family in ``families/<file>.py``."""
    return cast(Family, importlib.import_module(f"penstock.models.families.{file}").FAMILY)


def _unknown(name: str, config: Mapping[str, Any]) -> str:
    """Try every family on the configuration; the one that leaves least unread is the nearest."""
    best: tuple[int, float, bool, str, str] | None = None
    for file in sorted(set(FILES.values())):
        differences = _differences(family(file), config)
        if differences is None:
            continue
        likeness = max(difflib.SequenceMatcher(None, name, known).ratio() for known in family(file).model_types)
        # Names that are hardly alike say nothing; of equals the plainest network is the likeliest.
        alike = likeness if likeness >= ALIKE else 0.0
        entry = (len(differences), -alike, file != "llama", file, ", ".join(differences[:12]))
        best = entry if best is None else min(best, entry)
    known = f"known families: {', '.join(sorted(FILES))}"
    if best is None or (best[0] > 8 and best[1] > -ALIKE):
        return f"model_type '{name}' is not supported; {known}"
    differs = f"but it differs in {best[4]}" if best[0] else "whose fields it has, no more and no less"
    return (
        f"model_type '{name}' is not supported. Its config reads most like '{best[3]}', {differs}. "
        f"If the network is the same, try hf_overrides={{'model_type': '{best[3]}'}}; {known}"
    )


def _differences(candidate: Family, config: Mapping[str, Any]) -> list[str] | None:
    """Fields that ``candidate`` would not understand; None where the sizes cannot even be read."""
    try:
        candidate.architecture(config)
    except FieldsError as error:
        return error.fields
    except CheckpointError:
        return None
    return []
