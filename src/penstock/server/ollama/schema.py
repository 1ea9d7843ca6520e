"""What comes in at ``/api/…``."""

from __future__ import annotations

from typing import Any

import msgspec


class Options(msgspec.Struct, kw_only=True):
    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


HARMLESS_OPTIONS = frozenset({
    "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa",
    "low_vram", "repeat_last_n", "f16_kv", "vocab_only", "logits_all", "embedding_only",
})  # fmt: skip
"""Settings of the machine, which the server has made already; ``repeat_last_n``: penalties look at everything."""
REFUSED_OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    name: (neutral, "is not available in this version: leave it out")
    for name, neutral in {
        "mirostat": (0,), "mirostat_tau": (5.0,), "mirostat_eta": (0.1,), "tfs_z": (1, 1.0),
        "penalize_newline": (True,),
    }.items()
}  # fmt: skip


class Common(msgspec.Struct, kw_only=True):
    model: str | None = None
    stream: bool | None = None
    options: dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class GenerateRequest(Common, kw_only=True):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


class ChatRequest(Common, kw_only=True):
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    truncate: bool | None = None


class EmbedRequest(msgspec.Struct, kw_only=True):
    input: str | list[str] | None = None
    prompt: str | None = None
    model: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None


class ShowRequest(msgspec.Struct, kw_only=True):
    model: str | None = None
    name: str | None = None


HARMLESS = frozenset({"keep_alive", "verbose", "name", "shift"})
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "template": (("",), "is not accepted from requests: give it to the server with --chat-template"),
    "suffix": (("",), "asks for text in the middle, which these models are not trained for: leave it out"),
    "images": (([],), "is not available: these models read text"),
    **dict.fromkeys(("width", "height", "steps"), ((0,), "is not available: these models write text")),
    "context": (([],), "is an old form of memory: use /api/chat"),
}
