"""``/``: a welcome; ``POST``: TGI's route for ``inputs``, and the plain demo of ``prompt`` to ``response``."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import msgspec

from penstock._version import __version__
from penstock.errors import RequestError
from penstock.server.answers import Answers
from penstock.server.body import parse, read
from penstock.server.http import Call, Dialect, Endpoint, Reply, Stream, reply
from penstock.server.openai.errors import error
from penstock.server.options import ServerOptions
from penstock.server.prompts import render_chat
from penstock.server.tgi.errors import error as tgi_error
from penstock.server.tgi.routes import compat
from penstock.types import Message, RequestOutputKind

logger = logging.getLogger(__name__)

SYSTEM = "You are a helpful assistant."
MAX_NEW_TOKENS = 512
MAX_TURNS = 1000


class DemoRequest(msgspec.Struct, kw_only=True):
    prompt: str
    system: str | None = None
    history: list[tuple[str, str]] | None = None
    max_length: int | None = None
    max_tokens: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    model: str | None = None


def dialect(options: ServerOptions) -> Dialect:
    off = options.disabled_dialects

    async def root(call: Call) -> Reply | Stream:
        fields = parse(call.body)
        if "inputs" in fields and "tgi" not in off:
            call.error = tgi_error
            return await compat(call, fields)
        if "prompt" in fields and "demo" not in off:
            return await demo(call, read(fields, DemoRequest))
        raise RequestError("POST / takes {'prompt': …}, or {'inputs': …} as text-generation-inference does")

    return Dialect("root", (Endpoint("GET", "/", welcome), Endpoint("POST", "/", root)), error)


async def welcome(call: Call) -> Reply:
    """Who is here, for people and for clients that look whether anybody is."""
    names = ", ".join(call.state.served)
    text = f"penstock {__version__} is running (model: {names}).\nOpenAI's API: /v1; all routes: /openapi.json\n"
    return Reply(text.encode(), content_type="text/plain; charset=utf-8")


async def demo(call: Call, request: DemoRequest) -> Reply:
    """One turn of a chat; ``time`` is when it was answered. The status is that of HTTP."""
    served = call.state.find(request.model)
    history = request.history or []
    if len(history) > MAX_TURNS:
        raise RequestError(f"history: {len(history)} turns are more than {MAX_TURNS}", "history")
    messages: list[Message] = [{"role": "system", "content": request.system or SYSTEM}]
    for asked, answered in history:
        messages += ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    messages.append({"role": "user", "content": request.prompt})
    prompt = await render_chat(served.llm, messages)
    params = call.state.default_params(served)
    room = max(1, served.llm.model.max_model_len - len(prompt.token_ids))
    wish = request.max_new_tokens or request.max_tokens or request.max_length or min(MAX_NEW_TOKENS, room)
    more = {k: v for k in ("temperature", "top_p") if (v := getattr(request, k)) is not None}
    params = replace(params, max_tokens=wish, output_kind=RequestOutputKind.FINAL_ONLY, **more)
    answers = await Answers.submit(served, [prompt], params)
    (output,) = await answers.finals()
    text, now = output.outputs[0].text, time.strftime("%Y-%m-%d %H:%M:%S")
    logger.info("[%s] prompt:%r, response:%r", now, request.prompt[:200], text[:200])
    return reply({"response": text, "status": 200, "time": now})
