"""``/v1/embeddings``: texts or token ids to vectors, as numbers or as the base64 of little-endian float32."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Literal

import msgspec

from penstock.errors import RequestError
from penstock.server.body import parse, read
from penstock.server.embeddings import Wish, embed
from penstock.server.http import Call, Reply, reply
from penstock.server.openai import adapt
from penstock.server.openai.completions import prompt_items
from penstock.server.openai.schema import Generation
from penstock.server.prompts import PromptItem
from penstock.types import F32

HARMLESS = frozenset({"user", "embed_dtype", "endianness"})
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "messages": ((), "is not available here: send the text as input"),
    "input_type": ((), "is not understood by these models: write the instruction into input"),
}


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    input: str | list[str | int | list[int]]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    pooling: Literal["mean", "last"] | None = None
    normalize: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    request_id: str | None = None


async def embeddings(call: Call) -> Reply:
    """Vectors of texts."""
    request = read(parse(call.body), EmbeddingRequest, HARMLESS, REFUSED)
    served = call.state.find(request.model)
    like = Generation(
        priority=request.priority, cache_salt=request.cache_salt, truncation_side=request.truncation_side,
        truncate_prompt_tokens=request.truncate_prompt_tokens, request_id=request.request_id,
    )  # fmt: skip
    wish = Wish(
        pooling=request.pooling,
        normalize=request.normalize is not False,
        dimensions=request.dimensions,
        truncation=adapt.truncation(like, served.llm.model.max_model_len),
        add_special_tokens=request.add_special_tokens is not False,
    )
    vectors, usage = await embed(call.state, served, input_items(request.input), wish, adapt.engine_options(like))
    write = _base64 if request.encoding_format == "base64" else _numbers
    data = [{"object": "embedding", "index": i, "embedding": write(vector)} for i, vector in enumerate(vectors)]
    return reply({
        "id": adapt.answer_id("embd", like, call.request_id), "object": "list", "data": data, "model": served.name,
        "usage": {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt},
    })  # fmt: skip


def input_items(given: Any) -> list[PromptItem]:
    """The four shapes of ``input`` as a list of prompts."""
    try:
        return prompt_items(given)
    except RequestError as error:
        raise RequestError(str(error).replace("prompt", "input"), "input") from None


def _numbers(vector: F32) -> list[float]:
    return vector.tolist()  # type: ignore[no-any-return]


def _base64(vector: F32) -> str:
    return b64encode(vector.astype("<f4").tobytes()).decode("ascii")
