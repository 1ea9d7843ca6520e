"""Requests of a command, step by step, so that they can be stopped between any two steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.errors import ExecutionError
from penstock.types import RequestOutput, RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from penstock.frontend import Prompt
    from penstock.llm import LLM

AT_ONCE = 1024
"""Requests handed to the engine at a time."""
_numbers = itertools.count()


def stream(
    llm: LLM, prompt: Prompt, params: SamplingParams, stopped: Callable[[], bool] = lambda: False,
    adapter: str | None = None,
) -> Iterator[RequestOutput]:  # fmt: skip
    """Outputs with what is new, until the answer ends or ``stopped()`` says so: then the last one says ``abort``."""
    request_id = f"cli-{next(_numbers)}"
    frontend = llm.frontend
    frontend.add(request_id, prompt, replace(params, output_kind=RequestOutputKind.DELTA), adapter=adapter)
    finished = False
    try:
        while not finished:
            if stopped():
                last = frontend.cancel(request_id)
                if last is not None:
                    yield last
                return
            for output in frontend.step():
                if output.request_id == request_id:
                    _raise(output)
                    finished = output.finished
                    yield output
    finally:
        frontend.cancel(request_id)


def run_all(
    llm: LLM, prompts: Sequence[Prompt], params: Sequence[SamplingParams], adapter: str | None = None
) -> Iterator[RequestOutput]:
    """Finished outputs in the order of ``prompts``, which are computed together."""
    frontend = llm.frontend
    order = [f"cli-{next(_numbers)}" for _ in prompts]
    waiting = iter(zip(order, prompts, params, strict=True))
    done: dict[str, RequestOutput] = {}
    try:
        for request_id in order:
            while request_id not in done:
                room = max(0, AT_ONCE - frontend.num_live)
                for name, prompt, each in itertools.islice(waiting, room):
                    frontend.add(name, prompt, replace(each, output_kind=RequestOutputKind.FINAL_ONLY), adapter=adapter)
                for output in frontend.step():
                    _raise(output)
                    done[output.request_id] = output
            yield done.pop(request_id)
    finally:
        for request_id in order:
            frontend.cancel(request_id)


def fit(params: SamplingParams, prompt: Prompt, context: int, asked: bool) -> SamplingParams:
    """``max_tokens`` lowered to what the context leaves, where the user did not ask for a number."""
    room = context - len(prompt.token_ids)
    if asked or room < 1 or params.max_tokens is None or params.max_tokens <= room:
        return params
    return replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))


def _raise(output: RequestOutput) -> None:
    if output.error is not None:
        raise ExecutionError(output.error)
