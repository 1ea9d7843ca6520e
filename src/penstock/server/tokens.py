"""``/tokenize`` and ``/detokenize``, which three dialects share.

vLLM's has a ``prompt`` (or ``messages``), TGI's ``inputs``, llama-server's ``content``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import RequestError
from penstock.server.body import parse, read
from penstock.server.http import Call, Reply, reply
from penstock.server.openai.schema import DetokenizeRequest, TokenizeRequest
from penstock.server.prompts import encode_prompts, render_chat


class TgiTokenizeRequest(msgspec.Struct, kw_only=True):
    inputs: str
    add_special_tokens: bool | None = None
    model: str | None = None


class LlamaTokenizeRequest(msgspec.Struct, kw_only=True):
    content: str
    add_special: bool | None = None
    with_pieces: bool | None = None
    model: str | None = None


async def tokenize(call: Call) -> Reply:
    fields = parse(call.body)
    if "inputs" in fields:
        return await _tgi(call, fields)
    if "content" in fields:
        return await _llama_server(call, fields)
    request = read(fields, TokenizeRequest)
    served = call.state.find(request.model)
    model = served.llm.model
    if (request.prompt is None) == (request.messages is None):
        raise RequestError("give either prompt or messages", "prompt")
    if request.messages is not None:
        prompt = await render_chat(
            served.llm,
            request.messages,
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt is not False,
            continue_final_message=bool(request.continue_final_message),
            kwargs=request.chat_template_kwargs,
        )
    else:
        (prompt,) = await encode_prompts(
            served.llm, [request.prompt or ""], add_special_tokens=request.add_special_tokens is not False
        )
    found: dict[str, Any] = {
        "count": len(prompt.token_ids),
        "max_model_len": model.max_model_len,
        "tokens": prompt.token_ids,
        "token_strs": None,
    }
    if request.return_token_strs and model.tokenizer is not None:
        found["token_strs"] = [model.tokenizer.token_text(t) for t in prompt.token_ids]
    return reply(found)


async def _tgi(call: Call, fields: dict[str, Any]) -> Reply:
    from penstock.server.tgi.routes import spans

    request = read(fields, TgiTokenizeRequest, ("parameters", "options"))
    served = call.state.find(request.model)
    special = request.add_special_tokens is not False
    (prompt,) = await encode_prompts(served.llm, [request.inputs], add_special_tokens=special)
    return reply(spans(served, prompt.token_ids))


async def _llama_server(call: Call, fields: dict[str, Any]) -> Reply:
    request = read(fields, LlamaTokenizeRequest, ("parse_special",))
    served = call.state.find(request.model)
    special = bool(request.add_special)
    (prompt,) = await encode_prompts(served.llm, [request.content], add_special_tokens=special)
    if not request.with_pieces:
        return reply({"tokens": prompt.token_ids})
    tokenizer = served.llm.frontend.require_tokenizer("/tokenize")

    def piece(token: int) -> str | list[int]:
        data = tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return list(data)

    return reply({"tokens": [{"id": t, "piece": piece(t)} for t in prompt.token_ids]})


async def detokenize(call: Call) -> Reply:
    request = read(parse(call.body), DetokenizeRequest)
    served = call.state.find(request.model)
    tokenizer = served.llm.frontend.require_tokenizer("/detokenize")
    size = served.llm.model.architecture.vocab_size
    bad = next((t for t in request.tokens if not 0 <= t < size), None)
    if bad is not None:
        raise RequestError(f"tokens: id {bad} is outside the vocabulary of {size}", "tokens")
    text = tokenizer.decode(request.tokens, bool(request.skip_special_tokens))
    return reply({"prompt": text, "content": text})
