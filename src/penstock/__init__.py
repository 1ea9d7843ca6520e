"""penstock runs and serves large language models: give it a checkpoint, get text.

>>> from penstock import LLM, SamplingParams
>>> llm = LLM()                                             # the embedded model; or a folder, or a hub's name
>>> llm.generate("The capital of France is", SamplingParams(temperature=0))[0].outputs[0].text

Everything is imported when first used, so that importing penstock costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock._version import __version__

if TYPE_CHECKING:
    from penstock.async_llm import AsyncLLM
    from penstock.errors import PenstockError
    from penstock.llm import LLM
    from penstock.pipeline import pipeline
    from penstock.sampling_defaults import BeamSearchParams
    from penstock.types import CompletionOutput, RequestOutput, RequestOutputKind, SamplingParams, StructuredOutputs

_LAZY = {
    "LLM": "penstock.llm",
    "AsyncLLM": "penstock.async_llm",
    "SamplingParams": "penstock.types",
    "BeamSearchParams": "penstock.sampling_defaults",
    "StructuredOutputs": "penstock.types",
    "RequestOutput": "penstock.types",
    "RequestOutputKind": "penstock.types",
    "CompletionOutput": "penstock.types",
    "PenstockError": "penstock.errors",
    "pipeline": "penstock.pipeline",
}

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchParams",
    "CompletionOutput",
    "PenstockError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputs",
    "__version__",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'penstock' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
